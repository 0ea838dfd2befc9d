// Package auth authenticates MQTT clients by the credentials in their CONNECT, and callers
// of the HTTP API by a bearer token (contract §3 and §5). The account is the
// authenticated username. The role is device, service for backends, or admin: a service
// may notify accounts and use the API, an admin may also disconnect devices.
//
// Read auth.go (Auth and its answers), identity.go (what an identity may do, and how
// long), acl.go (ordinary topics), then a file a mode: file.go with hash.go, verifier.go
// and refused.go, jwt.go with keys.go and jwks.go, http.go, certs.go. health.go remembers
// whether the service that a mode asks gives answers. queue.go and
// throttle.go bound what failures cost; watch.go reads files again when they change;
// edit.go writes users files, under the lock of lock_unix.go and lock_other.go.
//
// # Mode file
//
// auth.file.path names a YAML file. It is read again within a second or two of a
// change; a change that cannot be read is logged and not taken.
//
//	users:                       # MQTT: user name and password
//	  - name: alice
//	    password_hash: $argon2id$…  # heartline user add; htpasswd -nB works as well
//	    role: device             # or service, admin; device if absent
//	    accounts: [acme-*]       # of a service: only these; all if absent
//	tokens:                      # HTTP: bearer tokens
//	  - name: shop               # for the log
//	    sha256: 9f86d0…          # heartline token create; the token itself is nowhere
//	    role: service            # service if absent
//	    expires: 2030-01-01T00:00:00Z # optional
//
// A password hash costs some 50 to 200 ms of a core. Four things keep that from being
// an outage: a hash is computed only while its connection is open; addresses take turns
// for the cores, those that have failed behind the others; a password that was right has
// a verifier, an HMAC under a key apart, that is checked instead of the hash until it
// expires; and a password that was wrong is not hashed twice. Failures are answered
// after a growing delay, successes never are.
//
// # Mode jwt
//
// An MQTT client presents a token as its password; its user name is empty or the
// token's sub. sub is the account. exp is required, exp and nbf are kept to, with 30 s
// for clocks that differ, iss and aud where they are configured. Claims are found by
// their exact names. A service has the claim heartline_role "service" or "admin", or
// role "service", or heartline:service among its scope; heartline_role alone decides
// where it is present. heartline_accounts limits a service to accounts, device limits a
// client to one identifier. The algorithm must go with the kind of the key: RS and PS
// with RSA, ES256, ES384 and ES512 with their curves, EdDSA with Ed25519, HS with a
// secret of 32 bytes or more.
//
// For a token that no key fits, the set of jwks_url is fetched again, at most once in 30 s.
// Without a newer set such a token is refused for now (ErrUnavailable): its key may be new.
// It is denied if it has expired, or if its iat says that it is older than the set.
//
// # Mode http
//
// auth.http.url is asked with POST and the JSON object {"client_id", "username",
// "password", "remote"}, about a caller of the API with {"token", "remote"} and the
// others empty. 200 lets in, optionally with {"account", "role", "accounts", "device",
// "expires_at"}: the user name and device where they are absent. 401 and 403 refuse, and so
// does a 200 with a result other than "allow", "ok" or true, or with an ok of false.
// Everything else, and no answer within auth.http.timeout, means "not now". Yes and no
// are kept for auth.http.cache, and one question is asked once at a time.
//
// # Mode tls
//
// The client's certificate, which the listener has verified against
// mqtt.tls.client_ca_file and crl_file, names the account.
//
// # Lifetime
//
// An Identity is checked again while its connection or stream lasts: Identity.Check
// fails once a token has expired, or a user or token was removed or changed. New starts
// the goroutine that watches files, one that writes verifiers and one that fetches a
// JWK set, as far as the mode needs them; Close stops them and waits.
//
// It imports config, for its section of the configuration, internal/filewatch and
// internal/h2pool.
package auth
