package main

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestSoak is the soak with a few devices for a few seconds: too short to tell what
// grows, long enough for every kind of traffic to be right.
func TestSoak(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads memory and descriptors from /proc")
	}
	var out strings.Builder
	r, err := soak(t.Context(), t.TempDir(), options{duration: 8 * time.Second, devices: 40, rate: 30, out: &out, verbose: t.Output()})
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.faults {
		t.Error(f)
	}
	for _, name := range []string{"CONNECT", "notification: 202", "received: notification", "event: received", "wrong password: CONNACK 0x86", "audit"} {
		if r.done.of(name) == 0 {
			t.Errorf("no %s in the traffic", name)
		}
	}
}

// TestReloadsAtARate is the other mode with one kind of reload and a configuration with
// mistakes, at a rate that every machine reaches.
func TestReloadsAtARate(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads the CPU time from /proc")
	}
	var out strings.Builder
	err := atRate(t.Context(), t.TempDir(), options{devices: 20, out: &out, verbose: t.Output()}, reloadKinds()[:1], 2*time.Second, 40)
	t.Log("\n" + out.String())
	if err != nil {
		t.Error(err)
	}
	for _, row := range []string{"\nwindows ", "\na broken configuration "} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("no row %q", row)
		}
	}
}

// TestCompare: a quantity that grew beyond its tolerance is named with both values, one
// that fell or grew less is not, and one without samples is.
func TestCompare(t *testing.T) {
	s := newSamples(time.Now())
	for _, q := range quantities() {
		if s.series[q.series] != nil {
			continue
		}
		for i := range 100 {
			s.series[q.series] = append(s.series[q.series], sample{time.Duration(i) * time.Second, 10 * q.least})
		}
	}
	for i := 50; i < 100; i++ {
		s.series["heap"][i].value = 60e6 // from 40 MB, 4 MB are allowed
		s.series["disk"][i].value *= 1.05
		s.series["resident"][i].value = 0
	}
	delete(s.series, "goroutines")
	var out strings.Builder
	grown := s.compare(&out, span{0, 50 * time.Second}, span{50 * time.Second, 100 * time.Second})
	if strings.Join(grown, ", ") != "heap after GC, goroutines" {
		t.Errorf("got %q", grown)
	}
	for _, line := range []string{"grows: heap after GC 40.0 MB → 60.0 MB", "grows: goroutines: no samples"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, out.String())
		}
	}
}

// TestLedger: a notification is closed when each of its devices has an end that counts
// for it, whichever of answer and events comes first.
func TestLedger(t *testing.T) {
	l := newLedger(func(time.Duration) {})
	l.opened("a", "displayed", 0)
	l.ended("a", "phone", "displayed")
	l.took("a", []string{"phone", "tablet"})
	l.ended("a", "tablet", "received") // asked for displayed
	if n, _ := l.open(); n != 1 {
		t.Errorf("%d open, want the one whose tablet has not shown it", n)
	}
	l.ended("a", "tablet", "expired")
	l.opened("b", "received", -2*grace)
	l.took("b", []string{"phone"})
	if n, overdue := l.open(); n != 1 || len(overdue) != 1 || overdue[0] != "b" {
		t.Errorf("%d open, overdue %q, want b alone", n, overdue)
	}
	l.ended("b", "phone", "received")
	if n, _ := l.open(); n != 0 || l.accepted != 3 || l.finished != 3 {
		t.Errorf("%d open, %s", n, l)
	}
}
