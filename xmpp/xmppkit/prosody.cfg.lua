plugin_paths = { "/usr/lib/prosody/modules" }
data_path = "/var/lib/xmpp/data"
pidfile = "/var/lib/xmpp/prosody.pid"
interfaces = { "127.0.0.1" }
c2s_ports = { 5222 }
component_ports = { 5347 }
component_interfaces = { "127.0.0.1" }
s2s_ports = {}
http_ports = {}
https_ports = {}
c2s_direct_tls_ports = {}
run_as_root = true
daemonize = false
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
storage = "internal"
modules_enabled = {
	"roster", "saslauth", "disco", "ping", "message", "presence", "iq", "posix";
	-- What Heartline needs: resumable sessions, push, an archive, messages of absent users.
	"smacks", "cloud_notify", "mam", "offline", "csi_simple", "carbons";
}
modules_disabled = { "s2s", "tls" }
log = { info = "*console" }

VirtualHost "example.org"
Component "push.example.org"
	component_secret = "the-secret"
