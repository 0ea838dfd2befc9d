package delivery

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestNoPointers: the collector does not look into a slab.
func TestNoPointers(t *testing.T) {
	var look func(path string, v reflect.Type)
	look = func(path string, v reflect.Type) {
		switch k := v.Kind(); {
		case k == reflect.Struct:
			for f := range v.Fields() {
				look(path+"."+f.Name, f.Type)
			}
		case k < reflect.Bool || k > reflect.Float64 || k == reflect.Uintptr:
			t.Errorf("%s is a %s", path, v)
		}
	}
	look("delivery", reflect.TypeFor[delivery]())
}

// TestSlab compares a slab with a map of its deliveries.
func TestSlab(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type entry struct {
			dev      *device
			collapse string
		}
		var s slab
		c := &Core{}
		in := map[*delivery]entry{}
		var order []*delivery
		devices := []*device{{}, {}, {}}
		next := Seq(0)
		add := func(n int) {
			for range n {
				e := entry{devices[rapid.IntRange(0, 2).Draw(t, "device")], fmt.Sprint("key-", rapid.IntRange(0, 3).Draw(t, "key"))}
				d := s.add(e.dev, "voip", e.collapse)
				next++
				d.seq = next
				if _, found := in[d]; found || s.at(d.handle) != d {
					t.Fatalf("handle %d twice", d.handle)
				}
				in[d] = e
				order = append(order, d)
			}
		}
		remove := func(n int) {
			for range min(n, len(order)) {
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				d := order[i]
				order[i] = order[len(order)-1]
				order = order[:len(order)-1]
				s.release(d) // it is not over
				d.over, d.holds = true, 1
				s.release(d)
				if d.seq == 0 {
					t.Fatal("released although it is held")
				}
				d.holds = 0
				s.release(d)
				s.release(d)
				delete(in, d)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"few":  func(*rapid.T) { add(3) },
			"many": func(*rapid.T) { add(chunkSize) },
			"less": func(*rapid.T) { remove(2 * chunkSize) },
			"": func(t *rapid.T) {
				c.slab = s
				used := 0
				for d, e := range in {
					if c.dev(d) != e.dev || s.text(d.collapse) != e.collapse || s.text(d.kind) != "voip" || d.seq == 0 {
						t.Fatalf("delivery %d has changed", d.handle)
					}
				}
				for _, chunk := range s.chunks {
					used += int(chunk.used)
				}
				if used != len(in) {
					t.Fatalf("%d used, %d added", used, len(in))
				}
			},
		})
		remove(len(order))
		left := 0
		for _, chunk := range s.chunks {
			if chunk.deliveries != nil {
				left++
			}
		}
		if left > 1 || len(s.texts) > 0 || len(s.freeDevices) != len(s.devices) {
			t.Fatalf("%d chunks, %d texts and %d of %d devices are left", left, len(s.texts), len(s.devices)-len(s.freeDevices), len(s.devices))
		}
	})
}
