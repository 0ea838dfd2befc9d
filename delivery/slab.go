package delivery

import (
	"iter"
	"slices"
)

// slab holds the deliveries in chunks without pointers: the garbage collector does not
// look into them, however many deliveries wait. A delivery names its device and its
// texts by number, and is itself known by its handle. It does not move until it is
// released: once it is over, and neither dirty nor in a queue of pushes (Core.settle).
// The core's mutex guards it.
type slab struct {
	chunks []chunk
	spare  int32 // index+1 of the first chunk with a free place; 0: none

	devices     []*device // by number, those with deliveries
	freeDevices []uint32

	texts     map[string]uint32 // numbers of texts; "" is 0
	names     []text            // by number
	freeNames []uint32
}

// handle is the place of a delivery in a slab.
type handle uint32

// chunkSize is the number of deliveries in a chunk of 40 KiB.
const chunkSize = 512

// chunk is memory for deliveries. Those that are free form a list by their place field.
// Chunks with a free place form a list, too.
type chunk struct {
	deliveries *[chunkSize]delivery // nil: given back
	free       int32                // index+1 of the first free one; 0: none
	used       int32
	prev, next int32 // index+1 in the list of chunks with a free place
}

// text is a collapse key or a kind of registration, and how many deliveries have it.
type text struct {
	string
	uses uint32
}

func (s *slab) at(h handle) *delivery {
	return &s.chunks[h/chunkSize].deliveries[h%chunkSize]
}

// each returns the deliveries of a queue.
func (s *slab) each(queue []handle) iter.Seq[*delivery] {
	return func(yield func(*delivery) bool) {
		for _, h := range queue {
			if !yield(s.at(h)) {
				return
			}
		}
	}
}

// add returns a new delivery to dev.
func (s *slab) add(dev *device, kind, collapse string) *delivery {
	if s.spare == 0 {
		s.grow()
	}
	i := s.spare - 1
	c := &s.chunks[i]
	at := c.free - 1
	d := &c.deliveries[at]
	c.free = d.place
	c.used++
	if c.free == 0 {
		s.unlink(i)
	}
	*d = delivery{handle: handle(i)*chunkSize + handle(at), collapse: s.number(collapse)}
	d.kind = s.number(pick(kind == KindAlert, "", kind))
	s.attach(d, dev)
	return d
}

// grow adds a chunk, in the place of one that was given back if there is any.
func (s *slab) grow() {
	i := slices.IndexFunc(s.chunks, func(c chunk) bool { return c.deliveries == nil })
	if i < 0 {
		i = len(s.chunks)
		s.chunks = append(s.chunks, chunk{})
	}
	c := &s.chunks[i]
	c.deliveries = new([chunkSize]delivery)
	for j := range chunkSize - 1 {
		c.deliveries[j].place = int32(j + 2)
	}
	c.free = 1
	s.link(int32(i))
}

// release takes back a delivery that is over, once nothing but the caller knows it.
func (s *slab) release(d *delivery) {
	if !d.over || d.dirty || d.holds > 0 || d.seq == 0 {
		return
	}
	d.seq = 0
	s.detach(d)
	s.drop(d.collapse)
	s.drop(d.kind)
	i := int32(d.handle / chunkSize)
	c := &s.chunks[i]
	d.place, c.free = c.free, int32(d.handle%chunkSize)+1
	c.used--
	if d.place == 0 {
		s.link(i)
	}
	if c.used == 0 && (c.prev != 0 || c.next != 0) { // one is kept for the next deliveries
		s.unlink(i)
		c.deliveries = nil
	}
}

func (s *slab) link(i int32) {
	if s.spare != 0 {
		s.chunks[s.spare-1].prev = i + 1
	}
	s.chunks[i].prev, s.chunks[i].next = 0, s.spare
	s.spare = i + 1
}

func (s *slab) unlink(i int32) {
	c := &s.chunks[i]
	if c.prev != 0 {
		s.chunks[c.prev-1].next = c.next
	} else {
		s.spare = c.next
	}
	if c.next != 0 {
		s.chunks[c.next-1].prev = c.prev
	}
	c.prev, c.next = 0, 0
}

// attach makes d a delivery to dev.
func (s *slab) attach(d *delivery, dev *device) {
	if dev.deliveries == 0 {
		if n := len(s.freeDevices); n > 0 {
			dev.number, s.freeDevices = s.freeDevices[n-1], s.freeDevices[:n-1]
			s.devices[dev.number] = dev
		} else {
			dev.number = uint32(len(s.devices))
			s.devices = append(s.devices, dev)
		}
	}
	dev.deliveries++
	d.device = dev.number
}

// detach ends what attach began.
func (s *slab) detach(d *delivery) {
	dev := s.devices[d.device]
	if dev.deliveries--; dev.deliveries == 0 {
		s.devices[d.device] = nil
		s.freeDevices = append(s.freeDevices, d.device)
	}
}

// number returns the number of a text for one more delivery.
func (s *slab) number(name string) uint32 {
	if name == "" {
		return 0
	}
	n, known := s.texts[name]
	if !known {
		if s.texts == nil {
			s.texts, s.names = map[string]uint32{}, make([]text, 1)
		}
		if last := len(s.freeNames) - 1; last >= 0 {
			n, s.freeNames = s.freeNames[last], s.freeNames[:last]
			s.names[n] = text{string: name}
		} else {
			n = uint32(len(s.names))
			s.names = append(s.names, text{string: name})
		}
		s.texts[name] = n
	}
	s.names[n].uses++
	return n
}

// drop ends one use of a text.
func (s *slab) drop(n uint32) {
	if n == 0 {
		return
	}
	t := &s.names[n]
	if t.uses--; t.uses == 0 {
		delete(s.texts, t.string)
		*t = text{}
		s.freeNames = append(s.freeNames, n)
	}
}

// text returns the text of a number.
func (s *slab) text(n uint32) string {
	if n == 0 {
		return ""
	}
	return s.names[n].string
}
