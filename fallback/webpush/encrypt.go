package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	recordSize = 4096
	keySize    = 65 // an uncompressed P-256 point
	authSize   = 16
	saltSize   = 16
	headerSize = saltSize + 4 + 1 + keySize

	// maxPlain is how many bytes of plain text fit into a body of 4096 bytes, which
	// is all that a push service must take (RFC 8030 §7.2): less the header, the tag of
	// AES-GCM and the delimiter.
	maxPlain = recordSize - headerSize - 16 - 1

	// shortPlain is the limit of the second try after a 413.
	shortPlain = maxPlain / 2

	// padTo is the step to which plain text is padded, so that its length does not
	// tell its content.
	padTo = 256
)

// encrypt encrypts plain for the browser that holds userKey and auth: one record of
// aes128gcm (RFC 8188) with the keys of RFC 8291 §3.4. sender and salt must be fresh
// for each message.
func encrypt(plain []byte, userKey *ecdh.PublicKey, auth []byte, sender *ecdh.PrivateKey, salt []byte, padded int) ([]byte, error) {
	if len(plain) > maxPlain {
		return nil, fmt.Errorf("%d bytes of plain text, %d fit", len(plain), maxPlain)
	}
	secret, err := sender.ECDH(userKey)
	if err != nil {
		return nil, err
	}
	public := sender.PublicKey().Bytes()
	info := "WebPush: info\x00" + string(userKey.Bytes()) + string(public)
	ikm, err := hkdf.Key(sha256.New, secret, auth, info, 32)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, ikm, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := hkdf.Key(sha256.New, ikm, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	padding := max(0, min(padded, maxPlain)-len(plain))
	out := make([]byte, 0, headerSize+len(plain)+1+padding+gcm.Overhead())
	out = append(out, salt...)
	out = binary.BigEndian.AppendUint32(out, recordSize)
	out = append(out, byte(len(public)))
	out = append(out, public...)
	record := make([]byte, len(plain)+1+padding)
	copy(record, plain)
	record[len(plain)] = 2 // the delimiter of the last record (RFC 8188 §2)
	return gcm.Seal(out, nonce, record, nil), nil
}

// seal encrypts plain with fresh keys.
func seal(plain []byte, userKey *ecdh.PublicKey, auth []byte) ([]byte, error) {
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // never fails
	return encrypt(plain, userKey, auth, sender, salt[:], (len(plain)+padTo-1)/padTo*padTo)
}
