package nodes

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const clockCanBeSet = true

// setClock sets the wall clock of this process, and of it alone, by the duration that a file holds,
// now and whenever the file changes. Go reads the clock by a function of the kernel, the vDSO,
// whose code is mapped into each process: this process's copy gets a jump to code that adds the
// duration. The monotonic clocks go on as they are.
func setClock(file string) error {
	base, function, err := vdsoClock()
	if err != nil {
		return err
	}
	page, err := unix.MmapPtr(-1, 0, unsafe.Add(base, -(1<<20)), 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE) // near the vDSO, for a short jump
	if err != nil {
		return fmt.Errorf("room for code: %w", err)
	}
	const cell = 64 // of the page: seconds to add
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 10, // jne: not CLOCK_REALTIME
		0x48, 0x8b, 0x0d, cell - 18, 0, 0, 0, // mov rcx, [cell]
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	}
	copy(unsafe.Slice((*byte)(page), len(code)), code)
	if err := unix.Mprotect(unsafe.Slice((*byte)(base), vdsoSize), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC); err != nil {
		return fmt.Errorf("write to the vDSO: %w", err)
	}
	far := int64(uintptr(page)) - int64(uintptr(function)) - 5
	if far != int64(int32(far)) || uintptr(function)%8 != 0 {
		return errors.New("the vDSO is too far away for a jump")
	}
	// In one write: other threads read the clock.
	first := (*uint64)(function)
	var jump [8]byte
	binary.LittleEndian.PutUint64(jump[:], *first)
	jump[0] = 0xe9
	binary.LittleEndian.PutUint32(jump[1:], uint32(int32(far)))
	seconds := (*int64)(unsafe.Add(page, cell))
	by, err := readOffset(file)
	if err != nil {
		return err
	}
	atomic.StoreInt64(seconds, int64(by/time.Second))
	atomic.StoreUint64(first, binary.LittleEndian.Uint64(jump[:]))
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			if by, err := readOffset(file); err == nil {
				atomic.StoreInt64(seconds, int64(by/time.Second))
			}
		}
	}()
	return nil
}

func readOffset(file string) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(string(text)))
}

const vdsoSize = 8192 // of its code, in whole pages

// vdsoClock finds the vDSO of this process, and in it the function that reads clocks.
func vdsoClock() (base, function unsafe.Pointer, err error) {
	auxv, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return nil, nil, err
	}
	const sysinfo = 33 // AT_SYSINFO_EHDR
	for ; len(auxv) >= 16; auxv = auxv[16:] {
		if binary.LittleEndian.Uint64(auxv) == sysinfo {
			base = *(*unsafe.Pointer)(unsafe.Pointer(&auxv[8]))
		}
	}
	if base == nil {
		return nil, nil, syscall.ENOSYS
	}
	image, err := elf.NewFile(bytes.NewReader(unsafe.Slice((*byte)(base), vdsoSize)))
	if err != nil {
		return nil, nil, fmt.Errorf("read the vDSO: %w", err)
	}
	symbols, err := image.DynamicSymbols()
	if err != nil {
		return nil, nil, fmt.Errorf("read the vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return base, unsafe.Add(base, s.Value), nil
		}
	}
	return nil, nil, errors.New("the vDSO has no clock")
}
