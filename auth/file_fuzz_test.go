package auth

import "testing"

func FuzzParsePeople(f *testing.F) {
	for _, seed := range []string{
		"", "users:\n  - name: a\n    password_hash: " + nobody + "\n    role: service\n",
		"users: [{name: a, password_hash: $argon2id$v=19$m=64,t=1,p=2$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg}]",
		"tokens: [{name: t, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, expires: 2030-01-01, account: x}]",
		"a: &a [*a]", "users: &u [{name: x}, *u]", "{}\n---\n", "users: !!binary x", "? [users]\n: x",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := parsePeople(content)
		if err != nil {
			return
		}
		if len(p.users)+len(p.tokens) == 0 || p.decoy == nil {
			t.Fatal("a good file without anyone")
		}
		for name, u := range p.users {
			if u.hash == nil || validName(name) != nil {
				t.Fatalf("user %q", name)
			}
			if again, err := parseHash(u.text); err != nil || again.cost() != u.hash.cost() {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseHash(f *testing.F) {
	f.Add(nobody)
	f.Add("$argon2id$v=19$m=64,t=1,p=2$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHash(text)
		if err != nil {
			return
		}
		switch h := h.(type) {
		case argon2Hash:
			if h.time > maxArgon2Time || h.memory > maxArgon2Memory || h.time == 0 || h.lanes == 0 {
				t.Fatal("beyond the bounds: ", h.cost())
			}
		case bcryptHash:
			if h.level > maxBcryptCost {
				t.Fatal("beyond the bounds: ", h.cost())
			}
		}
	})
}

func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"1","use":"sig","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := parseJWKS(content)
		if err == nil && len(keys) == 0 {
			t.Fatal("a good set without a key")
		}
		for _, k := range keys {
			if len(k.algorithms) == 0 {
				t.Fatal("a key without an algorithm")
			}
		}
	})
}
