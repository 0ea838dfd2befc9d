package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// profile takes the profiles of one round into dir; none where dir is empty.
func profile(dir string, round int) (stop func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	create := func(kind string) (*os.File, error) {
		return os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", kind, round+1)))
	}
	cpu, err := create("cpu")
	if err != nil {
		return nil, err
	}
	runtime.SetMutexProfileFraction(10)
	runtime.SetBlockProfileRate(10_000) // a sample for each 10 µs blocked
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		runtime.SetMutexProfileFraction(0)
		runtime.SetBlockProfileRate(0)
		errs := []error{cpu.Close()}
		for _, kind := range []string{"mutex", "block", "allocs"} {
			f, err := create(kind)
			if err != nil {
				return err
			}
			errs = append(errs, pprof.Lookup(kind).WriteTo(f, 0), f.Close())
		}
		return errors.Join(errs...)
	}, nil
}
