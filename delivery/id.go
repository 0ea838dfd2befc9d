package delivery

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/google/uuid"
)

// placeholderID stands for an ID that the server makes where only its length matters.
const placeholderID = "00000000-0000-7000-8000-000000000000"

// NewID makes a UUIDv7 that holds seq, which is near a time in nanoseconds: as a
// timestamp with more precision than milliseconds, which RFC 9562 §6.2 (method 3)
// provides for. The other 54 bits are random.
func NewID(seq Seq) string {
	milliseconds, within := uint64(seq)/1e6, uint64(seq)%1e6
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], milliseconds<<16|7<<12|within>>8)
	random := rand.Uint64() >> 10 // seq makes it unique in this store; this, most likely, elsewhere
	binary.BigEndian.PutUint64(id[8:], 2<<62|within&0xff<<54|random)
	return id.String()
}

// SeqOf returns the Seq that id holds, if it is one that NewID makes. A backend may
// have given an ID that looks like it: the notification with that Seq, if there is
// one, has another ID then.
func SeqOf(id string) (seq Seq, ok bool) {
	u, err := uuid.Parse(id)
	if err != nil || len(id) != len(placeholderID) || strings.ContainsAny(id, "ABCDEF") { // another spelling of it
		return 0, false
	}
	high, low := binary.BigEndian.Uint64(u[:8]), binary.BigEndian.Uint64(u[8:])
	milliseconds, within := high>>16, high&0xfff<<8|low>>54&0xff
	if high>>12&0xf != 7 || low>>62 != 2 || within >= 1e6 || milliseconds > math.MaxUint64/1_000_000 {
		return 0, false
	}
	return Seq(milliseconds*1e6 + within), true
}
