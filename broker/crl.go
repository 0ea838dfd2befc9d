package broker

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"
)

// revocations are the certificates that the CRLs of a file list.
type revocations struct {
	lists   []crl
	serials map[revocation]struct{}
}

type crl struct {
	issuer     string
	nextUpdate time.Time
}

type revocation struct{ issuer, serial string } // issuer: the raw name

func (r *revocations) have(c *x509.Certificate) bool {
	_, listed := r.serials[revocation{string(c.RawIssuer), c.SerialNumber.String()}]
	return listed
}

// outdated returns the lists whose successor should have been there by now.
func (r *revocations) outdated(now time.Time) (lists []crl) {
	for _, list := range r.lists {
		if !list.nextUpdate.IsZero() && now.After(list.nextUpdate) {
			lists = append(lists, list)
		}
	}
	return lists
}

// readCRLs reads the CRLs of a file: any number in PEM, or one in DER. One of the CAs must
// have signed each.
func readCRLs(path string, caPEM []byte) (*revocations, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	texts, err := crlTexts(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cas := certificatesOf(caPEM)
	r := &revocations{serials: map[revocation]struct{}{}}
	for i, der := range texts {
		list, err := x509.ParseRevocationList(der)
		if err == nil && len(list.Raw) != len(der) { // which the parser ignores
			err = fmt.Errorf("%d bytes follow its end; several lists must be in PEM", len(der)-len(list.Raw))
		}
		if err != nil {
			return nil, fmt.Errorf("%s holds no CRL in PEM or DER (list %d of %d): %w", path, i+1, len(texts), err)
		}
		if !signedByOne(list, cas) {
			return nil, fmt.Errorf("%s: no CA of client_ca_file has signed the list of %q (list %d of %d)", path, list.Issuer.String(), i+1, len(texts))
		}
		r.lists = append(r.lists, crl{list.Issuer.String(), list.NextUpdate})
		for _, e := range list.RevokedCertificateEntries {
			r.serials[revocation{string(list.RawIssuer), e.SerialNumber.String()}] = struct{}{}
		}
	}
	return r, nil
}

// crlTexts returns the DER of each list. pem.Decode skips a damaged block, and the
// certificates that it revokes would be let in: each block that begins must be read.
func crlTexts(content []byte) (texts [][]byte, err error) {
	begun := bytes.Count(content, []byte("-----BEGIN "))
	if begun == 0 {
		return [][]byte{content}, nil
	}
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		texts = append(texts, block.Bytes)
	}
	if len(texts) != begun {
		return nil, fmt.Errorf("%d of its %d PEM blocks are damaged", begun-len(texts), begun)
	}
	return texts, nil
}

func certificatesOf(text []byte) (all []*x509.Certificate) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
}

func signedByOne(list *x509.RevocationList, cas []*x509.Certificate) bool {
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}
