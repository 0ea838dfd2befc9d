package pebblestore

import "github.com/heartline-mqtt/heartline/delivery"

// liveness remembers which deliveries have a Record: those of the batch being
// applied, whose changes cannot be read yet, and those touched lately, which are
// the ones that change again. It saves a read of the store for each change of a
// delivery's Record. Its zero value knows nothing.
type liveness struct {
	young, old map[delivery.Key]life
}

// life is the known state of a delivery.
type life struct {
	live  bool // it has a Record
	alone bool // no other delivery has the same notification
}

// generation is how many deliveries are remembered, twice at most: a few MB.
const generation = 1 << 15

// age forgets entries that were not touched for long. It is called between batches.
func (l *liveness) age() {
	if len(l.young) >= generation {
		l.old, l.young = l.young, nil
	}
}

func (l *liveness) get(k delivery.Key) (_ life, known bool) {
	of, known := l.young[k]
	if !known {
		of, known = l.old[k]
	}
	return of, known
}

func (l *liveness) set(k delivery.Key, of life) {
	if l.young == nil {
		l.young = map[delivery.Key]life{}
	}
	l.young[k] = of
}
