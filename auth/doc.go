// Package auth finds out who someone is: an MQTT client by what it presents in
// CONNECT, a caller of the HTTP API by a bearer token (contract §3 and §5). The
// account is the authenticated user name. The role is device, or service for
// backends: a service may notify every account and use the API.
//
// Read auth.go (Auth and what it answers), then a file a mode: file.go with
// hash.go, jwt.go with keys.go, http.go. watched.go reads files again when they
// have changed.
//
// # Mode file
//
// auth.file.path names a YAML file. It is looked at every two seconds while it is
// in use; a change that cannot be read is logged and not taken.
//
//	users:                       # MQTT: user name and password
//	  - name: alice
//	    password_hash: $2y$10$…  # htpasswd -nB alice, or argon2 SALT -id -e
//	    role: device             # or service; device if absent
//	tokens:                      # HTTP: bearer tokens
//	  - name: shop               # for the log
//	    sha256: 9f86d0…          # openssl rand -hex 32 | tee shop.token | tr -d '\n' | sha256sum
//	    role: service            # service if absent
//	    expires: 2030-01-01T00:00:00Z # optional
//
// # Mode jwt
//
// An MQTT client presents a token as its password; its user name is empty or the
// token's sub. sub is the account. exp and nbf are kept to, with 30 s for clocks
// that differ, iss and aud where they are configured. A service has the claim
// heartline_role "service", or role "service", or heartline:service among its
// scope; heartline_role alone decides where it is there. The algorithm must go
// with the kind of the key: RS and PS with RSA, ES256, ES384 and ES512 with their
// curves, EdDSA with Ed25519, HS with a secret of 32 bytes or more.
//
// # Mode http
//
// auth.http.url is asked with POST and the JSON object {"client_id", "username",
// "password", "remote"}, about a caller of the API with {"token", "remote"} and the
// others empty. 200 lets in, optionally with {"account", "role"}: the user name and
// device where they are absent. 401 and 403 refuse; so does everything else, and
// no answer within auth.http.timeout.
//
// It imports config, for its section of the configuration, and nothing else of
// Heartline. It starts no goroutine.
package auth
