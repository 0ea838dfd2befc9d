package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

// keys are made once: an RSA key takes a while.
var keys = sync.OnceValue(func() (k struct {
	rsa  *rsa.PrivateKey
	p256 *ecdsa.PrivateKey
	p521 *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
}) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	k.p521, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(err)
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return k
})

type m = jwt.MapClaims

func sign(t testing.TB, method jwt.SigningMethod, key any, claims m, header ...string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i]] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func publicPEM(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func ecJWK(key *ecdsa.PrivateKey, crv, kid string) map[string]any {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	half := (len(point) - 1) / 2
	return map[string]any{"kty": "EC", "crv": crv, "kid": kid, "use": "sig", "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
}

func jwks(t testing.TB, keys ...map[string]any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestJWTClaims(t *testing.T) {
	a := newAuth(t, config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{
		SecretFile: file(t, string(secret)+"\n"), Issuer: "https://id.example", Audience: "heartline",
	}})
	now := time.Now().Truncate(time.Second)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	good := func(more m) m {
		c := m{"sub": "alice", "iss": "https://id.example", "aud": []string{"heartline", "other"}, "exp": at(time.Hour)}
		for k, v := range more {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return c
	}
	const noExp = "denied: the token has no exp: it would be valid for ever (auth.jwt.allow_without_expiry accepts it)"
	for name, c := range map[string]struct {
		claims  m
		want    string
		service bool
	}{
		"good":                        {good(nil), "yes", false},
		"no exp":                      {good(m{"exp": nil}), noExp, false},
		"Exp is not exp":              {good(m{"exp": nil, "Exp": at(time.Hour)}), noExp, false},
		"Exp does not overrule exp":   {good(m{"exp": at(-time.Hour), "Exp": at(time.Hour)}), "denied: the token has expired (exp)", false},
		"SUB is not sub":              {good(m{"sub": nil, "SUB": "alice"}), "denied: the token has no sub", false},
		"SUB does not overrule sub":   {good(m{"SUB": "bob"}), "yes", false},
		"Heartline_Role is nothing":   {good(m{"Heartline_Role": "service"}), "yes", false},
		"ROLE is nothing":             {good(m{"ROLE": "service", "Scope": "heartline:service"}), "yes", false},
		"empty device":                {good(m{"device": ""}), "denied: the token's device is empty", false},
		"device in a list":            {good(m{"device": []string{"a"}}), "denied: the token is no JWT", false},
		"no accounts":                 {good(m{"heartline_role": "service", "heartline_accounts": []string{}}), "denied: the token's heartline_accounts is empty: leave it out for all accounts", false},
		"accounts of a device":        {good(m{"heartline_accounts": []string{"*"}}), "denied: the token's heartline_accounts: must not be set for a device, which acts for its own account only", false},
		"expired within the leeway":   {good(m{"exp": at(-20 * time.Second)}), "yes", false},
		"expired":                     {good(m{"exp": at(-40 * time.Second)}), "denied: the token has expired (exp)", false},
		"not yet, within the leeway":  {good(m{"nbf": at(20 * time.Second)}), "yes", false},
		"not yet":                     {good(m{"nbf": at(45 * time.Second)}), "denied: the token is not valid yet (nbf)", false},
		"other issuer":                {good(m{"iss": "https://evil.example"}), "denied: the token is of another issuer (iss)", false},
		"no issuer":                   {good(m{"iss": nil}), "denied: the token lacks iss or aud", false},
		"other audience":              {good(m{"aud": "shop"}), "denied: the token is for another audience (aud)", false},
		"no audience":                 {good(m{"aud": nil}), "denied: the token lacks iss or aud", false},
		"no sub":                      {good(m{"sub": nil}), "denied: the token has no sub", false},
		"sub is a number":             {good(m{"sub": 7}), "denied: the token is no JWT", false},
		"exp is text":                 {good(m{"exp": "tomorrow"}), "denied: the token is no JWT", false},
		"heartline_role service":      {good(m{"heartline_role": "service"}), "yes", true},
		"heartline_role device":       {good(m{"heartline_role": "device", "role": "service", "scope": "heartline:service"}), "yes", false},
		"heartline_role unknown":      {good(m{"heartline_role": "root"}), `denied: the token's heartline_role: must be device, service or admin, got "root"`, false},
		"role service":                {good(m{"role": "service"}), "yes", true},
		"role of someone else":        {good(m{"role": "admin"}), "yes", false},
		"role in a form of its own":   {good(m{"role": []string{"service"}}), "yes", false},
		"scope":                       {good(m{"scope": "openid heartline:service"}), "yes", true},
		"scope in a list":             {good(m{"scope": []string{"openid", "heartline:service"}}), "yes", true},
		"scope of something else":     {good(m{"scope": "heartline:services"}), "yes", false},
		"scope in a form of its own":  {good(m{"scope": m{"heartline:service": true}}), "yes", false},
		"audience in one word":        {good(m{"aud": "heartline"}), "yes", false},
		"expires long before issuing": {good(m{"exp": 1, "iat": at(0)}), "denied: the token has expired (exp)", false},
	} {
		token := sign(t, jwt.SigningMethodHS256, secret, c.claims)
		id, err := a.Connect(context.Background(), auth.Credentials{ClientID: "phone", Password: []byte(token)})
		if said(err) != c.want || id.Service != c.service {
			t.Errorf("%s: %s %+v, want %s", name, said(err), id, c.want)
		}
		over, err2 := a.Bearer(context.Background(), token, "")
		if said(err2) != c.want || !same(over, id) {
			t.Errorf("%s: over HTTP %s %+v", name, said(err2), over)
		}
		if err == nil && c.claims["exp"] != nil {
			if want := time.Unix(c.claims["exp"].(int64), 0).Add(30 * time.Second); !id.Expires.Equal(want) {
				t.Errorf("%s: expires at %s, want %s", name, id.Expires, want)
			}
		}
	}
	token := sign(t, jwt.SigningMethodHS256, secret, good(nil))
	for username, want := range map[string]string{"alice": "yes", "": "yes", "bob": `denied: the username "bob" is not the token's sub`} {
		_, err := a.Connect(context.Background(), auth.Credentials{Username: username, Password: []byte(token)})
		if said(err) != want {
			t.Errorf("username %q: %s", username, said(err))
		}
	}
}

func TestJWTAlgorithmGoesWithTheKey(t *testing.T) {
	k := keys()
	claims := m{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	rsaPEM, p256PEM := publicPEM(t, &k.rsa.PublicKey), publicPEM(t, &k.p256.PublicKey)
	set := jwks(t,
		ecJWK(k.p256, "P-256", "ec"), ecJWK(k.p521, "P-521", "ec5"),
		map[string]any{"kty": "RSA", "kid": "rsa", "alg": "PS256", "n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes())},
		map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(k.ed.Public().(ed25519.PublicKey))},
		map[string]any{"kty": "oct", "kid": "hs", "k": b64(secret)},
		map[string]any{"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB"},
		map[string]any{"kty": "new", "kid": "new"},
	)
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, claims).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	hs, ps, rs := jwt.SigningMethodHS256, jwt.SigningMethodPS256, jwt.SigningMethodRS256
	for name, c := range map[string]struct {
		cfg   config.AuthFromJWT
		token string
		want  string
	}{
		"secret, HS512":             {config.AuthFromJWT{SecretFile: file(t, string(secret))}, sign(t, jwt.SigningMethodHS512, secret, claims), "yes"},
		"secret in the environment": {config.AuthFromJWT{Secret: config.Secret(secret)}, sign(t, hs, secret, claims), "yes"},
		"another secret":            {config.AuthFromJWT{SecretFile: file(t, string(secret))}, sign(t, hs, []byte(strings.Repeat("x", 32)), claims), "denied: the token's signature is not good"},
		"secret, none":              {config.AuthFromJWT{SecretFile: file(t, string(secret))}, none, "denied: the token's signature is not good"},
		"secret, RS256":             {config.AuthFromJWT{SecretFile: file(t, string(secret))}, sign(t, rs, k.rsa, claims), "denied: there is no key for the token's kid and alg"},
		"public key, RS256":         {config.AuthFromJWT{PublicKeyFile: file(t, rsaPEM)}, sign(t, rs, k.rsa, claims), "yes"},
		"public key, PS256":         {config.AuthFromJWT{PublicKeyFile: file(t, rsaPEM)}, sign(t, ps, k.rsa, claims), "yes"},
		"public key, none":          {config.AuthFromJWT{PublicKeyFile: file(t, rsaPEM)}, none, "denied: the token's signature is not good"},
		// The classic: the public key, which everyone has, taken for a shared secret.
		"public key as a secret":  {config.AuthFromJWT{PublicKeyFile: file(t, rsaPEM)}, sign(t, hs, []byte(rsaPEM), claims), "denied: there is no key for the token's kid and alg"},
		"EC key":                  {config.AuthFromJWT{PublicKeyFile: file(t, p256PEM)}, sign(t, jwt.SigningMethodES256, k.p256, claims), "yes"},
		"EC key of another curve": {config.AuthFromJWT{PublicKeyFile: file(t, p256PEM)}, sign(t, jwt.SigningMethodES512, k.p521, claims), "denied: there is no key for the token's kid and alg"},
		"Ed25519":                 {config.AuthFromJWT{PublicKeyFile: file(t, publicPEM(t, k.ed.Public()))}, sign(t, jwt.SigningMethodEdDSA, k.ed, claims), "yes"},
		"set, EC by kid":          {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, jwt.SigningMethodES256, k.p256, claims, "kid", "ec"), "yes"},
		"set, EC without kid":     {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, jwt.SigningMethodES512, k.p521, claims), "yes"},
		"set, Ed25519":            {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, jwt.SigningMethodEdDSA, k.ed, claims, "kid", "ed"), "yes"},
		"set, shared secret":      {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, hs, secret, claims, "kid", "hs"), "yes"},
		"set, RSA in its alg":     {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, ps, k.rsa, claims, "kid", "rsa"), "yes"},
		"set, RSA in another alg": {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, rs, k.rsa, claims, "kid", "rsa"), "denied: there is no key for the token's kid and alg"},
		"set, kid of another key": {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, jwt.SigningMethodES256, k.p256, claims, "kid", "ec5"), "denied: there is no key for the token's kid and alg"},
		"set, unknown kid":        {config.AuthFromJWT{JWKSFile: file(t, set)}, sign(t, jwt.SigningMethodES256, k.p256, claims, "kid", "../../etc/passwd"), "denied: there is no key for the token's kid and alg"},
		"critical extension":      {config.AuthFromJWT{SecretFile: file(t, string(secret))}, sign(t, hs, secret, claims, "crit", "b64"), "denied: the token asks for an extension (crit) that is not known"},
		"no token":                {config.AuthFromJWT{SecretFile: file(t, string(secret))}, "", "denied: no token"},
		"two parts":               {config.AuthFromJWT{SecretFile: file(t, string(secret))}, "a.b", "denied: the token is no JWT"},
		"no base64":               {config.AuthFromJWT{SecretFile: file(t, string(secret))}, "!.!.!", "denied: the token is no JWT"},
	} {
		a := newAuth(t, config.Auth{Mode: config.AuthJWT, JWT: c.cfg})
		id, err := a.Connect(context.Background(), auth.Credentials{Password: []byte(c.token)})
		if said(err) != c.want {
			t.Errorf("%s: %s, want %s", name, said(err), c.want)
		}
		if err == nil && id.Account != "alice" {
			t.Errorf("%s: %+v", name, id)
		}
	}
}

func TestJWTKeysThatAreNotTaken(t *testing.T) {
	k := keys()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))
	off := ecJWK(k.p256, "P-256", "")
	off["y"] = off["x"]
	type c = config.AuthFromJWT
	for _, c := range []struct {
		cfg  config.AuthFromJWT
		want string
	}{
		{c{}, "auth.jwt: must have exactly one source of keys"},
		{c{SecretFile: file(t, string(secret)), PublicKeyFile: file(t, publicPEM(t, &k.rsa.PublicKey))}, "auth.jwt: must have exactly one source of keys"},
		{c{SecretFile: file(t, string(secret)), Secret: config.Secret(secret)}, "auth.jwt: must have exactly one source of keys"},
		{c{Secret: "short"}, "auth.jwt.secret: a shared secret must have at least 32 bytes, has 5"},
		{c{SecretFile: file(t, "0123456789abcdef0123456789abcde\n")}, "a shared secret must have at least 32 bytes, has 31"},
		{c{PublicKeyFile: file(t, "x")}, "must be a public key in PEM (-----BEGIN PUBLIC KEY-----)"},
		{c{PublicKeyFile: file(t, private)}, "holds a private key: give the public key alone, which is enough to verify, and keep the other where tokens are issued"},
		{c{PublicKeyFile: file(t, strings.Replace(private, "PRIVATE", "PUBLIC", 2))}, "the public key cannot be read: "},
		{c{PublicKeyFile: file(t, strings.ReplaceAll(private, "PRIVATE KEY", "THING"))}, `must be a public key in PEM, is a "THING"`},
		{c{PublicKeyFile: file(t, publicPEM(t, &k.p256.PublicKey)+publicPEM(t, &k.p521.PublicKey))}, "must hold one key; use jwks_file for several"},
		{c{PublicKeyFile: file(t, publicPEM(t, &small.PublicKey))}, "an RSA key must have at least 2048 bits, has 1024"},
		{c{PublicKeyFile: file(t, publicPEM(t, &p224.PublicKey))}, "an elliptic curve must be P-256, P-384 or P-521, is P-224"},
		{c{JWKSFile: file(t, "[]")}, `must be a JWK set, {"keys":[...]}: `},
		{c{JWKSFile: file(t, "{}")}, "has no key to verify signatures with"},
		{c{JWKSFile: file(t, jwks(t, map[string]any{"kty": "oct", "k": b64(secret), "key_ops": []string{"encrypt"}}))}, "has no key to verify signatures with"},
		{c{JWKSFile: file(t, jwks(t, map[string]any{"kty": "oct", "k": b64(secret[:8])}, off, map[string]any{"kty": "oct", "k": b64(secret), "alg": "none"}))},
			"keys[0]: a shared secret must have at least 32 bytes, has 8\nkeys[1]: is no valid key of its kty and crv\nkeys[2]: alg \"none\" does not go with its kty and crv"},
	} {
		_, err := auth.New(config.Auth{Mode: config.AuthJWT, JWT: c.cfg}, auth.Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v\nwant %s", err, c.want)
		}
	}
}

func TestJWTBindsTheDevice(t *testing.T) {
	a := newAuth(t, config.Auth{Mode: config.AuthJWT, DevicePattern: "{account}-*", JWT: config.AuthFromJWT{SecretFile: file(t, string(secret)), AllowWithoutExpiry: true}})
	for _, c := range []struct {
		claims m
		may    string
		mayNot string
	}{
		{m{"sub": "alice"}, "alice-phone", "bob-phone"},
		{m{"sub": "alice"}, "alice-", "alice"},
		{m{"sub": "a*"}, "a*-1", "alice-1"},
		{m{"sub": "+49"}, "%2B49-1", "+49-1"},
		{m{"sub": "alice", "device": "tablet"}, "tablet", "alice-phone"},
		{m{"sub": "shop", "role": "service"}, "anything", ""},
	} {
		id, err := a.Connect(context.Background(), auth.Credentials{Password: []byte(sign(t, jwt.SigningMethodHS256, secret, c.claims))})
		if err != nil {
			t.Fatal(err)
		}
		if !id.MayUse(c.may) || c.mayNot != "" && id.MayUse(c.mayNot) {
			t.Errorf("%v: %q %v, %q %v", c.claims, c.may, id.MayUse(c.may), c.mayNot, id.MayUse(c.mayNot))
		}
	}
}

func TestServicesForSomeAccounts(t *testing.T) {
	a := newAuth(t, config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{SecretFile: file(t, string(secret)), AllowWithoutExpiry: true}})
	id, err := a.Bearer(context.Background(), sign(t, jwt.SigningMethodHS256, secret, m{"sub": "shop", "heartline_role": "service", "heartline_accounts": []string{"acme-*", "bob", "*@x.example"}}), "")
	if err != nil || id.AllAccounts() {
		t.Fatal(id, err)
	}
	for account, want := range map[string]bool{"acme-1": true, "acme-": true, "acme": false, "bob": true, "bobby": false, "ann@x.example": true, "ann@x.examples": false, "": false} {
		if id.MayActFor(account) != want {
			t.Errorf("%q: %v", account, !want)
		}
	}
	for _, claims := range []m{
		{"sub": "shop", "heartline_role": "service", "heartline_accounts": nil},
		{"sub": "shop", "heartline_role": "service", "heartline_accounts": []string{}},
		{"sub": "shop", "heartline_role": "admin", "heartline_accounts": []string{"acme-*"}},
		{"sub": "ann", "device": nil},
	} {
		if id, err := a.Bearer(context.Background(), sign(t, jwt.SigningMethodHS256, secret, claims), ""); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%v: %+v, %v", claims, id, err)
		}
	}
}

// TestJWTKeysFromAURL: a new key is fetched when a token names it, at most once in 30 s;
// an issuer that is down or answers nonsense changes nothing. Until newer keys are there, a
// token that no key fits is refused for now only, unless it has expired or is older than the keys.
func TestJWTKeysFromAURL(t *testing.T) {
	k := keys()
	var answer atomic.Pointer[string]
	var fetched atomic.Int64
	say := func(text string) { answer.Store(&text) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		if text := *answer.Load(); text != "" {
			_, _ = io.WriteString(w, text)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	token := func(kid string, key *ecdsa.PrivateKey, method jwt.SigningMethod) []byte {
		return []byte(sign(t, method, key, m{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}, "kid", kid))
	}
	old := func(claim string) []byte {
		claims := m{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
		claims[claim] = time.Now().Add(-time.Hour).Unix()
		return []byte(sign(t, jwt.SigningMethodES256, k.p256, claims, "kid", "one"))
	}
	none := []byte(sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, m{"sub": "alice"}))
	shared := []byte(sign(t, jwt.SigningMethodHS256, secret, m{"sub": "alice"}))
	one, two := token("one", k.p256, jwt.SigningMethodES256), token("two", k.p521, jwt.SigningMethodES512)
	login := func(a *auth.Auth, token []byte) string {
		_, err := a.Connect(context.Background(), auth.Credentials{Password: token})
		return said(err)
	}
	cfg := config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{JWKSURL: server.URL}}
	const unknown = "denied: there is no key for the token's kid and alg"
	const unsigned = "denied: the token's signature is not good"
	const notYet = "unavailable: there is no key for the token's kid and alg yet, and auth.jwt.jwks_url has given no newer keys"

	say("")
	a := newAuth(t, cfg) // an issuer that is down does not keep the broker from starting
	if got := login(a, one); !strings.HasPrefix(got, "unavailable") {
		t.Error(got)
	}
	say(jwks(t, ecJWK(k.p256, "P-256", "one")))
	a = newAuth(t, cfg)
	before := fetched.Load()
	if got := login(a, one); got != "yes" || fetched.Load() != before {
		t.Error(got)
	}
	if login(a, none); fetched.Load() != before { // it would leave none for a new key
		t.Error("fetched for a token without a signature")
	}
	if login(a, shared); fetched.Load() != before {
		t.Error("fetched for a token that is signed with a shared secret")
	}
	say(jwks(t, ecJWK(k.p521, "P-521", "two")))
	for _, c := range []struct {
		token []byte
		want  string
	}{{two, "yes"}, {one, notYet}, {old("iat"), unknown}, {old("exp"), unknown}, {none, unsigned}, {shared, unknown}} {
		if got := login(a, c.token); got != c.want || fetched.Load() != before+1 {
			t.Errorf("%s, want %s, fetched %d times", got, c.want, fetched.Load()-before)
		}
	}
	for range 100 { // who has no credentials cannot have us fetch
		login(a, one)
	}
	if n := fetched.Load() - before; n != 1 {
		t.Errorf("fetched %d times", n)
	}
	for name, text := range map[string]string{
		"down": "", "nonsense": "nonsense", "no keys": `{"keys":[]}`, "too long": strings.Repeat(" ", 2<<20),
		"a shared secret": jwks(t, map[string]any{"kty": "oct", "kid": "hs", "k": b64(secret)}),
	} {
		say(jwks(t, ecJWK(k.p256, "P-256", "one")))
		a := newAuth(t, cfg)
		say(text)
		if got := login(a, two); got != notYet {
			t.Errorf("%s: %s", name, got)
		}
		if got := login(a, one); got != "yes" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestJWTFetchOutlivesItsCaller: a client that goes away does not keep new keys from those
// that wait for them.
func TestJWTFetchOutlivesItsCaller(t *testing.T) {
	k := keys()
	asked, answer := make(chan struct{}, 10), make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case text := <-answer:
			_, _ = io.WriteString(w, text)
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	answer <- jwks(t, ecJWK(k.p256, "P-256", "one"))
	a := newAuth(t, config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{JWKSURL: server.URL}})
	<-asked
	token := []byte(sign(t, jwt.SigningMethodES512, k.p521, m{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}, "kid", "two"))
	login := func(ctx context.Context) string {
		_, err := a.Connect(ctx, auth.Credentials{Password: token})
		return said(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan string)
	go func() { gone <- login(ctx) }()
	<-asked
	cancel()
	if got := <-gone; !strings.HasPrefix(got, "unavailable: auth.jwt.jwks_url has not answered yet") {
		t.Errorf("the client that goes: %s", got)
	}
	others := make(chan string)
	for range 3 {
		go func() { others <- login(context.Background()) }()
	}
	answer <- jwks(t, ecJWK(k.p521, "P-521", "two"))
	for range 3 {
		if got := <-others; got != "yes" {
			t.Errorf("a client that waits: %s", got)
		}
	}
	if len(asked) > 0 {
		t.Errorf("fetched %d times more", len(asked))
	}
}

// TestJWTKeysWithoutNames: an issuer that does not name its keys, or keeps the name, can
// change them, too.
func TestJWTKeysWithoutNames(t *testing.T) {
	k := keys()
	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, kid := range []string{"", "signing"} {
		var answer atomic.Pointer[string]
		say := func(text string) { answer.Store(&text) }
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, *answer.Load())
		}))
		defer server.Close()
		say(jwks(t, ecJWK(k.p256, "P-256", kid)))
		a := newAuth(t, config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{JWKSURL: server.URL}})
		say(jwks(t, ecJWK(next, "P-256", kid)))
		for _, c := range []struct {
			key  *ecdsa.PrivateKey
			want string
		}{{k.p256, "yes"}, {next, "yes"}, {k.p256, "denied: the token's signature is not good"}} {
			token := sign(t, jwt.SigningMethodES256, c.key, m{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}, "kid", kid)
			if _, err := a.Connect(context.Background(), auth.Credentials{Password: []byte(token)}); said(err) != c.want {
				t.Errorf("kid %q: %s, want %s", kid, said(err), c.want)
			}
		}
	}
}
