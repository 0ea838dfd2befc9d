package config

import "time"

// Words that a configuration value can be.
const (
	AuthNone = "none"
	AuthFile = "file"
	AuthJWT  = "jwt"
	AuthHTTP = "http"
	AuthTLS  = "tls"

	NameCN    = "cn"
	NameEmail = "email"
	NameDNS   = "dns"
	NameURI   = "uri"

	AckReceived  = "received"
	AckDisplayed = "displayed"

	UnknownRefuse = "refuse"
	UnknownHold   = "hold"

	EnvironmentProduction = "production"
	EnvironmentSandbox    = "sandbox"

	EnginePebble = "pebble"
	EngineMemory = "memory"
	// EngineJournal keeps what EnginePebble does, and writes a journal first.
	EngineJournal = "journal"
	// EnginePostgres keeps everything in a PostgreSQL database.
	EnginePostgres = "postgres"

	AccessDeny      = "deny"
	AccessRead      = "read"
	AccessWrite     = "write"
	AccessReadWrite = "readwrite"

	FormatText = "text"
	FormatJSON = "json"
)

// MaxTTL is the longest TTL that a notification may have: as long as Apple keeps
// one for a device that is off.
const MaxTTL = 720 * time.Hour

// Config is everything that a Heartline process is told. The tag `key` names a
// value in a file; the comments are those of heartline.example.yaml, which is
// rendered from this file.
type Config struct {
	// Where notifications, the device registry and ordinary MQTT state are kept.
	// One process at a time uses a data directory. A relative path, here and in
	// every other key, starts at the working directory.
	DataDir string `key:"data_dir"`
	MQTT    MQTT   `key:"mqtt"`
	HTTP    HTTP   `key:"http"`
	Auth    Auth   `key:"auth"`
	// Addresses (192.0.2.7) and prefixes (10.0.0.0/8) of the proxies in front of
	// Heartline. Their word for the client's address is taken: the header of the PROXY
	// protocol where it is on, and X-Forwarded-For. Nobody else's is.
	TrustedProxies []string `key:"trusted_proxies"`
	Delivery       Delivery `key:"delivery"`
	Fallback       Fallback `key:"fallback"`
	Receipts       Receipts `key:"receipts"`
	XMPP           XMPP     `key:"xmpp"`
	Store          Store    `key:"store"`
	Cluster        Cluster  `key:"cluster"`
	Log            Log      `key:"log"`
}

// MQTT is the broker's side of the configuration.
type MQTT struct {
	// Where MQTT 3.1.1 and 5 clients connect over plain TCP; "" turns it off.
	Address string  `key:"address"`
	TLS     MQTTTLS `key:"tls"`
	// Whether the plain listener may be on an address that is not loopback. Passwords
	// and notifications then cross the network for everybody to read, unless a proxy
	// or a private network in front protects them.
	Insecure bool `key:"insecure"`
	// Whether the MQTT listeners expect the PROXY protocol (version 1 or 2) from
	// trusted_proxies. Connections from elsewhere are then closed.
	ProxyProtocol bool `key:"proxy_protocol"`
	// Web pages of other origins that may open /mqtt: https://app.example.org, or a host
	// alone, with its port where a browser shows one; "*" for any. A * stands for a part
	// between two dots, at the beginning also for several.
	AllowedOrigins []string   `key:"allowed_origins"`
	Limits         MQTTLimits `key:"limits"`
	// What Heartline's own topics begin with: one or more topic levels.
	TopicPrefix string `key:"topic_prefix"`
	// The longest keepalive; forced on clients that ask for more or for none,
	// because a device counts as up for as long as its heartbeat may be late.
	MaxKeepalive time.Duration `key:"max_keepalive"`
	// The largest MQTT packet that is read; a client that sends more is cut off.
	MaxPacketSize ByteSize `key:"max_packet_size"`
	// Whether retained messages and sessions of ordinary MQTT survive a restart.
	// Notifications always do.
	Persistence bool `key:"persistence"`
	// Connections at a time, over all MQTT listeners and the WebSocket.
	MaxConnections int `key:"max_connections"`
	// Connections at a time from one IP address; 0 sets no limit. There is none by
	// default because a load balancer or a mobile carrier puts all its devices
	// behind a few addresses. Set it where clients connect from the open Internet
	// with nothing in between.
	MaxConnectionsPerAddress int `key:"max_connections_per_address"`
	// How long a new connection may take to complete TLS and send its CONNECT.
	ConnectTimeout time.Duration `key:"connect_timeout"`
	// A client that takes none of the data sent to it for this long is disconnected.
	WriteTimeout time.Duration `key:"write_timeout"`
}

// MQTTTLS is the MQTT listener over TLS.
type MQTTTLS struct {
	// Where MQTT clients connect over TLS; "" turns it off.
	Address string `key:"address"`
	// The server's certificate chain (PEM) and its private key.
	CertFile string `key:"cert_file"`
	KeyFile  string `key:"key_file"`
	// CAs (PEM) whose client certificates are asked for and verified; "" asks for
	// none.
	ClientCAFile string `key:"client_ca_file"`
	// Revoked client certificates: one or more CRLs in PEM, or one in DER, each signed by
	// one of these CAs. The file is read again when it changes, and connections of
	// certificates that it lists end.
	CRLFile string `key:"crl_file"`
}

// MQTTLimits bounds what one client or account may take. 0 sets no limit; services
// and admins have none.
type MQTTLimits struct {
	// Levels of a topic name or filter of an ordinary message.
	TopicLevels int `key:"topic_levels"`
	// Subscriptions of a client.
	Subscriptions int `key:"subscriptions"`
	// Ordinary messages a second that a client may publish; 0: as many as it likes.
	PublishRate int `key:"publish_rate"`
	// Retained messages of an account. Not applied where auth.mode is none.
	RetainedBytes ByteSize `key:"retained_bytes"`
	// Sessions of an account, connected and kept. Not applied where auth.mode is none.
	Sessions int `key:"sessions"`
	// Devices of an account. A further one is refused with reason code 0x97. Not
	// applied where auth.mode is none.
	Devices int `key:"devices"`
	// Ordinary messages that wait for a session's client. Beyond that, a message for a client
	// that is away or does not read is dropped and counted; for one that reads,
	// publishers wait. It applies to every client, and cannot be turned off.
	SessionBytes ByteSize `key:"session_bytes"`
}

// HTTP is the listener of the API.
type HTTP struct {
	// Where the API, MQTT over WebSocket (/mqtt) and the dashboard are served;
	// "" turns them off.
	Address string  `key:"address"`
	TLS     HTTPTLS `key:"tls"`
	// Whether plain HTTP may be on an address that is not loopback; see mqtt.insecure.
	Insecure bool `key:"insecure"`
	// Whether the listener expects the PROXY protocol; see mqtt.proxy_protocol.
	ProxyProtocol bool         `key:"proxy_protocol"`
	Internal      HTTPInternal `key:"internal"`
	// The web terminal: a page that plays a device, for trying things out. `serve
	// --dev` turns it on.
	WebTerminal bool `key:"web_terminal"`
}

// HTTPInternal is a second HTTP listener, for a private network.
type HTTPInternal struct {
	// Where the API, metrics and health are served as well. With it http.address
	// serves /mqtt, the web pages, /healthz and /readyz alone and can be public. It
	// asks for the same tokens, and /readyz tells all it knows. It speaks plain HTTP.
	Address string `key:"address"`
	// Whether it may be on an address that is not loopback; see mqtt.insecure.
	Insecure bool `key:"insecure"`
}

// HTTPTLS turns the HTTP listener into HTTPS.
type HTTPTLS struct {
	// The server's certificate chain (PEM) and its private key; with both the
	// listener speaks HTTPS, with neither HTTP.
	CertFile string `key:"cert_file"`
	KeyFile  string `key:"key_file"`
}

// Auth says who may connect and call.
type Auth struct {
	// Who may connect and call: none (anyone; refused on an address that is not
	// loopback), file, jwt, http or tls. The section of that name says the rest.
	Mode string `key:"mode"`
	// Which client identifiers an account may use: {account} stands for its name, * for
	// any text, as in {account}-*. "" allows any that no other account holds. Services
	// may use any, and a JWT's device claim comes before the pattern.
	DevicePattern string       `key:"device_pattern"`
	File          AuthFromFile `key:"file"`
	JWT           AuthFromJWT  `key:"jwt"`
	HTTP          AuthFromHTTP `key:"http"`
	TLS           AuthFromTLS  `key:"tls"`
	// Who may use which ordinary topics: those below mqtt.topic_prefix have rules of
	// their own. The first entry that fits the client and the topic decides. What no entry
	// speaks of is refused to devices and allowed to services; with auth.mode none it is
	// allowed. One entry {filter: "#", access: readwrite} opens all topics to everyone;
	// {filter: "users/{account}/#", access: readwrite} gives each account its own tree.
	// $SYS topics are for services only, whatever the entries say.
	ACL []ACLEntry `key:"acl"`
	// Whether a subscription that acl refuses is answered 0x80 (no reason) in MQTT 5
	// as in 3.1.1, and not 0x87 (not authorized).
	ObscureRefusals bool `key:"obscure_refusals"`
}

// ACLEntry is a rule about ordinary topics.
type ACLEntry struct {
	// Whom it is about: a username, or where the client gave none its client
	// identifier; "" is everyone.
	Username string `key:"username"`
	// A topic filter. A level {account} (or %u) stands for the client's own account,
	// {device} (or %c) for its client identifier. As in MQTT, one that begins with a wildcard does not speak of
	// topics that begin with $.
	Filter string `key:"filter"`
	// deny, read (subscribe and receive), write (publish) or readwrite.
	Access string `key:"access"`
}

// AuthFromFile is auth.mode file.
type AuthFromFile struct {
	// Users with bcrypt or argon2id hashes, roles device and service, and API
	// tokens.
	Path string `key:"path"`
	// Where the key lies that lets devices which have logged in before come back without
	// the cost of their password's hash, also after a restart; the file is made where
	// there is none. Keep it apart from data_dir and its backups. "" forgets at each
	// restart. The key itself, instead of its file, can be given as
	// HEARTLINE_AUTH_FILE_VERIFIER_KEY: 64 hexadecimal digits.
	VerifierKeyFile string `key:"verifier_key_file"`
	VerifierKey     Secret `key:"verifier_key"`
	// How long after its last hash a device needs none.
	VerifierTTL time.Duration `key:"verifier_ttl"`
}

// AuthFromJWT is auth.mode jwt. Exactly one source of keys is set.
type AuthFromJWT struct {
	// Where the keys that verify tokens come from; exactly one of these: a JWK
	// set at a URL (fetched every 15 minutes and when a token names an unknown key), a
	// JWK set, a public key (PEM), or a shared secret. The secret itself, instead of
	// its file, can be given as HEARTLINE_AUTH_JWT_SECRET.
	JWKSURL       string `key:"jwks_url"`
	JWKSFile      string `key:"jwks_file"`
	PublicKeyFile string `key:"public_key_file"`
	SecretFile    string `key:"secret_file"`
	Secret        Secret `key:"secret"`
	// What `iss` and `aud` must be; "" does not look.
	Issuer   string `key:"issuer"`
	Audience string `key:"audience"`
	// Whether tokens without exp are accepted. Nobody can take such a token back.
	AllowWithoutExpiry bool `key:"allow_without_expiry"`
}

// AuthFromHTTP is auth.mode http.
type AuthFromHTTP struct {
	// The http or https URL that is asked about each client.
	URL string `key:"url"`
	// How long it may take to answer; no answer is a refusal.
	Timeout time.Duration `key:"timeout"`
	// How long its yes or no is good for the same question; 0s asks every time.
	Cache time.Duration `key:"cache"`
	// Whether a plain http URL may lead off this machine: passwords cross the network
	// for everybody to read.
	Insecure bool `key:"insecure"`
}

// AuthFromTLS is auth.mode tls: a client certificate says who its client is. It needs
// mqtt.tls with client_ca_file. Callers of the API use the tokens of auth.file.path.
type AuthFromTLS struct {
	// Where in the certificate the account is: cn (the subject's common name), or the
	// first email, dns or uri among its alternative names.
	Account string `key:"account"`
	// Where the only client identifier is that it may use; "" for nowhere.
	Device string `key:"device"`
	// Accounts whose clients are services.
	Services []string `key:"services"`
}

// Delivery is the loop's timing and its bounds.
type Delivery struct {
	// The ack that makes a delivery complete where a notification names none:
	// received (the device's PUBACK) or displayed (its word that it has shown it).
	Ack string `key:"ack"`
	// How long a sent pseudo-notification may go unacknowledged before the
	// fallback.
	AckWindow time.Duration `key:"ack_window"`
	// How long an accepted push may go unacknowledged before the channel is checked
	// again.
	FallbackWindow time.Duration `key:"fallback_window"`
	// How long a notification is tried where it does not say; at most 720h.
	TTL time.Duration `key:"ttl"`
	// Notifications under way to one device; more are refused to the backend.
	MaxOutstandingPerDevice int `key:"max_outstanding_per_device"`
	// How many of them may be published and not yet acknowledged at a time.
	MaxInflightPerDevice int `key:"max_inflight_per_device"`
	// What becomes of a notification for an account without devices: refuse (404), or
	// hold it until a device of the account registers or its TTL ends.
	UnknownAccounts string `key:"unknown_accounts"`
	// How long after its last sign a device is forgotten. Longer than ttl.
	ForgetDeviceAfter time.Duration `key:"forget_device_after"`
}

// Fallback is the notification servers.
type Fallback struct {
	APNs    APNs    `key:"apns"`
	FCM     FCM     `key:"fcm"`
	WebPush WebPush `key:"webpush"`
}

// APNs is Apple's push service. The credentials here serve every token whose
// topic and environment have no entry of their own in Apps.
type APNs struct {
	// Whether devices that do not answer over the channel are pushed to.
	Enabled bool `key:"enabled"`
	// A token signing key (.p8) with its key_id and team_id, or a certificate_file
	// (.p12 or .pem) further down: exactly one of the two. The key itself, instead
	// of its file, can be given as HEARTLINE_FALLBACK_APNS_KEY.
	KeyFile string `key:"key_file"`
	Key     Secret `key:"key"`
	KeyID   string `key:"key_id"`
	TeamID  string `key:"team_id"`
	// A certificate with its private key, and where it is encrypted the file that
	// holds its password (or HEARTLINE_FALLBACK_APNS_CERTIFICATE_PASSWORD).
	CertificateFile         string `key:"certificate_file"`
	CertificatePasswordFile string `key:"certificate_password_file"`
	CertificatePassword     Secret `key:"certificate_password"`
	// The bundle ID for device tokens that name none.
	Topic string `key:"topic"`
	// production or sandbox, for device tokens that name none.
	Environment string `key:"environment"`
	// Further apps with credentials of their own, by topic and environment.
	Apps []APNsApp `key:"apps"`
	// Replaces Apple's host, for a simulator or a proxy: https://host[:port].
	Endpoint string `key:"endpoint"`
	// Extra CA (PEM) for that endpoint.
	CAFile string `key:"ca_file"`
	// How long one request may take.
	Timeout time.Duration `key:"timeout"`
	// Requests under way at a time, for each app.
	MaxConcurrent int   `key:"max_concurrent"`
	Retry         Retry `key:"retry"`
}

// APNsApp is the credentials of one app.
type APNsApp struct {
	// The bundle ID.
	Topic string `key:"topic"`
	// production or sandbox; "" is that of fallback.apns.environment.
	Environment string `key:"environment"`
	// A token signing key (.p8) with its key_id and team_id ...
	KeyFile string `key:"key_file"`
	KeyID   string `key:"key_id"`
	TeamID  string `key:"team_id"`
	// ... or a certificate (.p12 or .pem).
	CertificateFile         string `key:"certificate_file"`
	CertificatePasswordFile string `key:"certificate_password_file"`
}

// FCM is Firebase Cloud Messaging: Android. The service account here serves every
// token that names no project, or its own.
type FCM struct {
	// Whether devices that do not answer over the channel are pushed to.
	Enabled bool `key:"enabled"`
	// The service account that the Firebase console makes (Project settings, Service
	// accounts), a JSON file. Its content, instead of its file, can be given as
	// HEARTLINE_FALLBACK_FCM_SERVICE_ACCOUNT.
	ServiceAccountFile string `key:"service_account_file"`
	ServiceAccount     Secret `key:"service_account"`
	// notification (Android shows it) or data (the app gets it, and shows it).
	Style string `key:"style"`
	// The Android notification channel; "" leaves it to the app.
	Channel string `key:"channel"`
	// Further projects with service accounts of their own.
	Apps []FCMApp `key:"apps"`
	// Replaces Google's host, for a simulator or a proxy: https://host[:port].
	Endpoint string `key:"endpoint"`
	// Extra CA (PEM) for that endpoint.
	CAFile string `key:"ca_file"`
	// How long one request may take.
	Timeout time.Duration `key:"timeout"`
	// Requests under way at a time, for each project.
	MaxConcurrent int   `key:"max_concurrent"`
	Retry         Retry `key:"retry"`
}

// FCMApp is a further Firebase project.
type FCMApp struct {
	// Its service account, a JSON file.
	ServiceAccountFile string `key:"service_account_file"`
	// notification or data; "" is that of fallback.fcm.style.
	Style string `key:"style"`
	// The Android notification channel; "" is that of fallback.fcm.channel.
	Channel string `key:"channel"`
}

// WebPush is browsers, and UnifiedPush distributors on Android.
type WebPush struct {
	// Whether devices that do not answer over the channel are pushed to.
	Enabled bool `key:"enabled"`
	// The application server key, P-256 in PEM; heartline webpush-key makes one. Keep a
	// copy: losing it loses every browser. The key itself, instead of its file, can be
	// given as HEARTLINE_FALLBACK_WEBPUSH_KEY.
	KeyFile string `key:"key_file"`
	Key     Secret `key:"key"`
	// Whom push services may write to about these pushes: mailto:… or https://….
	Contact string `key:"contact"`
	// Host names of the push services that may be asked; empty: any at a public address.
	// A * stands for a part between two dots, at the beginning also for several.
	Allow []string `key:"allow"`
	// Address ranges that may be connected to in addition to public ones, such as 10.0.0.0/8,
	// for a distributor of your own.
	AllowPrivate []string `key:"allow_private"`
	// Further application server keys.
	Apps []WebPushApp `key:"apps"`
	// Extra CA (PEM) for push services of your own.
	CAFile string `key:"ca_file"`
	// How long one request may take.
	Timeout time.Duration `key:"timeout"`
	// Requests under way at a time, for each push service.
	MaxConcurrent int   `key:"max_concurrent"`
	Retry         Retry `key:"retry"`
}

// WebPushApp is a further application server key.
type WebPushApp struct {
	// The key, P-256 in PEM.
	KeyFile string `key:"key_file"`
	// Whom to write to; "" is fallback.webpush.contact.
	Contact string `key:"contact"`
}

// Styles of an FCM message.
const (
	StyleNotification = "notification"
	StyleData         = "data"
)

// Retry is a backoff: Initial, doubling up to Max.
type Retry struct {
	// The first and the longest pause between two tries.
	Initial time.Duration `key:"initial"`
	Max     time.Duration `key:"max"`
}

// Receipts tell backends what becomes of notifications.
type Receipts struct {
	// Where each event of a timeline is sent, signed as Standard Webhooks say, and
	// retried until it arrives.
	Webhooks []Webhook `key:"webhooks"`
	// How long an event waits for a webhook that does not take it, if that is longer than
	// store.history. Then it is dropped, and the webhook is told how many were.
	Retain time.Duration `key:"retain"`
}

// Webhook is an address of a backend.
type Webhook struct {
	// Identifies the webhook: its position in the events is kept under it. "" is the
	// host and path of the URL.
	Name string `key:"name"`
	// Where the events are posted. Redirects are not followed.
	URL string `key:"url"`
	// The secret, whsec_ and base64 ("heartline webhooks secret" makes one). While it is
	// changed the file holds both, one a line: each request is signed with each.
	SecretFile string `key:"secret_file"`
	// Which events, such as received, displayed, expired; empty: all.
	Events []string `key:"events"`
	// Of which accounts, with * for any text; empty: all.
	Accounts []string `key:"accounts"`
	// Whether the URL may be plain http to another machine: everybody on the way can
	// read the events.
	Insecure bool `key:"insecure"`
	// Extra CA (PEM) for the server's certificate.
	CAFile string `key:"ca_file"`
	// How long one request may take; 0 is 15s.
	Timeout time.Duration `key:"timeout"`
}

// What becomes of a publish of an XMPP server.
const (
	NotifyMessages = "messages"
	NotifyAll      = "all"
)

// XMPP makes the clients of an ejabberd or a Prosody devices.
type XMPP struct {
	// The servers: one component (XEP-0114) each.
	Components []XMPPComponent `key:"components"`
	// Signs the secrets of push registrations; "" makes one in data_dir. Keep a copy:
	// without it every app must register again. With cluster.address it is needed, the same
	// on every node.
	RegistrationKeyFile string `key:"registration_key_file"`
	// Which of the server's publishes (XEP-0357) become notifications: messages (those
	// with a body) or all.
	NotifyOn string `key:"notify_on"`
	// The title of such a notification.
	Title string `key:"title"`
	// Whether it carries the server's text as its body, and the sender as its subtitle.
	ShowBody   bool `key:"show_body"`
	ShowSender bool `key:"show_sender"`
	// A device gets at most one such notification in this time; publishes in between
	// join the next one.
	MinInterval time.Duration `key:"min_interval"`
	// A larger stanza of the server itself ends the link; one of a user is dropped. No larger
	// one is sent.
	MaxStanzaSize ByteSize `key:"max_stanza_size"`
	// How long one write to the server may take.
	WriteTimeout time.Duration `key:"write_timeout"`
	// How often the server is pinged. If it sends nothing for 10s after that, the link is dialed again.
	PingInterval time.Duration `key:"ping_interval"`
	// The pauses between two attempts to connect.
	Reconnect Retry `key:"reconnect"`
}

// XMPPComponent is one XMPP server.
type XMPPComponent struct {
	// The component's name at the server, such as push.example.org.
	Domain string `key:"domain"`
	// host:port of the server's component port: ejabberd_service, component_ports.
	Address string `key:"address"`
	// The secret shared with the server. Only a hash of it is sent, and nothing on the
	// link is encrypted.
	SecretFile string `key:"secret_file"`
	// The domains whose users are accounts, and whose publishes are taken.
	Hosts []string `key:"hosts"`
	// Whether address may be another machine's: notifications then cross the network for
	// everybody to read, unless a private network protects them.
	AllowRemote bool `key:"allow_remote"`
}

// Store is where notifications are kept.
type Store struct {
	// pebble: the disk of this machine, in data_dir. journal: the same with a journal in
	// front, whose syncs are shorter; it upgrades data_dir, for good.
	// postgres: a PostgreSQL database.
	// memory: nothing survives the process (tests, demos).
	Engine string `key:"engine"`
	// How long a finished notification's timeline is kept.
	History time.Duration `key:"history"`
	// How often older entries are removed, in small steps. history is at least as long.
	Housekeeping time.Duration `key:"housekeeping"`
	// Notifications are refused while the disk has less than this free, so that the
	// accepted ones can still be written. 0B turns the check off.
	MinFree  ByteSize `key:"min_free"`
	Postgres Postgres `key:"postgres"`
}

// Postgres is the database of store.engine postgres.
type Postgres struct {
	// A file with the URL: postgres://user:password@host/database?sslmode=verify-full.
	// The URL, instead of its file, can be given as HEARTLINE_STORE_POSTGRES_URL.
	URLFile string `key:"url_file"`
	URL     Secret `key:"url"`
	// The schema that holds Heartline's tables.
	Schema string `key:"schema"`
	// Connections that write. This version has one.
	Lanes int `key:"lanes"`
}

// Cluster makes several processes with one PostgreSQL database one Heartline.
type Cluster struct {
	// Where other nodes reach this one; "": it is the only one on its database.
	Address string `key:"address"`
	// The address that other nodes are told, where it differs from address.
	Advertise string `key:"advertise"`
	// Names this node in logs and in `heartline nodes`; "": the name of the machine.
	Name string     `key:"name"`
	TLS  ClusterTLS `key:"tls"`
	// How long a node that has stopped keeps its accounts: another serves them within
	// two seconds after that.
	Lease time.Duration `key:"lease"`
	// How long a node that stops may take to hand its accounts and its MQTT connections over
	// to the other nodes. It ends sooner when they have all; the rest of the stop takes at
	// most 20s more. 0s: it stops at once, and its devices all come back together.
	Drain time.Duration `key:"drain"`
}

// ClusterTLS is how nodes know each other. On loopback it may be left out.
type ClusterTLS struct {
	// The certificate of this node and its key.
	CertFile string `key:"cert_file"`
	KeyFile  string `key:"key_file"`
	// The authority that has signed the certificates of all nodes.
	CAFile string `key:"ca_file"`
}

// Log is what the process says of itself, on standard error.
type Log struct {
	// debug, info, warn or error.
	Level string `key:"level"`
	// text or json.
	Format string `key:"format"`
}

// Default returns the configuration of a process that was told nothing: it
// listens on loopback and pushes nowhere.
func Default() *Config {
	return &Config{
		DataDir: "./heartline-data",
		MQTT: MQTT{
			Address:        "127.0.0.1:1883",
			TopicPrefix:    "heartline",
			MaxKeepalive:   5 * time.Minute,
			MaxPacketSize:  1 * MiB,
			Persistence:    true,
			MaxConnections: 100_000,
			ConnectTimeout: 10 * time.Second,
			WriteTimeout:   10 * time.Second,
			Limits: MQTTLimits{
				TopicLevels: 100, Subscriptions: 1000, RetainedBytes: 64 * MiB, Sessions: 1000, Devices: 1000, SessionBytes: 4 * MiB,
			},
		},
		HTTP: HTTP{Address: "127.0.0.1:8080"},
		Auth: Auth{
			Mode: AuthNone,
			File: AuthFromFile{VerifierTTL: 720 * time.Hour},
			HTTP: AuthFromHTTP{Timeout: 2 * time.Second, Cache: 10 * time.Second},
			TLS:  AuthFromTLS{Account: NameCN},
		},
		Delivery: Delivery{
			Ack:                     AckReceived,
			AckWindow:               3 * time.Second,
			FallbackWindow:          10 * time.Second,
			TTL:                     24 * time.Hour,
			MaxOutstandingPerDevice: 1000,
			MaxInflightPerDevice:    16,
			UnknownAccounts:         UnknownRefuse,
			ForgetDeviceAfter:       1440 * time.Hour,
		},
		Fallback: Fallback{
			APNs: APNs{
				Environment:   EnvironmentProduction,
				Timeout:       10 * time.Second,
				MaxConcurrent: 500,
				Retry:         Retry{Initial: time.Second, Max: time.Minute},
			},
			FCM: FCM{
				Style:         StyleNotification,
				Timeout:       10 * time.Second,
				MaxConcurrent: 500,
				Retry:         Retry{Initial: 10 * time.Second, Max: 10 * time.Minute},
			},
			WebPush: WebPush{
				Timeout:       10 * time.Second,
				MaxConcurrent: 100,
				Retry:         Retry{Initial: time.Second, Max: time.Minute},
			},
		},
		Receipts: Receipts{Retain: 168 * time.Hour},
		XMPP: XMPP{
			NotifyOn: NotifyMessages, Title: "New message", MinInterval: time.Second, MaxStanzaSize: 512 * KiB,
			WriteTimeout: 10 * time.Second, PingInterval: 30 * time.Second, Reconnect: Retry{Initial: time.Second, Max: 30 * time.Second},
		},
		Store:   Store{Engine: EnginePebble, History: 72 * time.Hour, Housekeeping: time.Minute, MinFree: 128 * MiB, Postgres: Postgres{Schema: "heartline", Lanes: 1}},
		Cluster: Cluster{Lease: 5 * time.Second, Drain: 30 * time.Second},
		Log:     Log{Level: "info", Format: FormatText},
	}
}
