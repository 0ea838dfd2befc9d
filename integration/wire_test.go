package integration

import "slices"

// Packets byte by byte, also those that no encoder would write.

// text is a string as MQTT has it.
func text[T ~string | ~[]byte](s T) []byte {
	return slices.Concat([]byte{byte(len(s) >> 8), byte(len(s))}, []byte(s))
}

// number is a variable byte integer.
func number(n int) []byte {
	var out []byte
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

// frame is a packet: its first byte, its length, its parts.
func frame(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return slices.Concat([]byte{first}, number(len(body)), body)
}
