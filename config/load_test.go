package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"

	"github.com/heartline-mqtt/heartline/config"
)

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, src config.Source) *config.Config {
	t.Helper()
	c, err := config.Load(src)
	if err != nil {
		t.Fatalf("Load:\n%v", err)
	}
	return c
}

// findings returns the lines of an error of Load, with the path of the file cut.
func findings(t testing.TB, src config.Source) []string {
	t.Helper()
	c, err := config.Load(src)
	if err == nil {
		return nil
	}
	if c != nil {
		t.Error("Load returned a configuration beside its error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], filepath.Dir(src.File)+"/", "")
	}
	return lines
}

func TestLoadOfNothingIsTheDefault(t *testing.T) {
	for _, src := range []config.Source{
		{},
		{Environ: []string{"PATH=/bin", "HEARTLINES=1"}},
		{File: write(t, "empty.yaml", "")},
		{File: write(t, "comment.yml", "# nothing\n")},
		{File: write(t, "null.yaml", "---\nnull\n")},
		{File: write(t, "sections.yaml", "mqtt:\n  tls:\nfallback:\n")},
		{File: write(t, "empty.toml", "")},
		{File: write(t, "blank.json", "\n")},
		{File: write(t, "empty.json", "{}")},
	} {
		if got := load(t, src); !reflect.DeepEqual(got, config.Default()) {
			t.Errorf("%s: got %+v", src.File, got)
		}
	}
}

// leaves flattens a decoded file into keys and values as text.
func leaves(t *testing.T, prefix string, v any, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			leaves(t, strings.TrimPrefix(prefix+"."+k, "."), e, out)
		}
	case []any:
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out[prefix] = string(b)
	default:
		out[prefix] = fmt.Sprint(v)
	}
}

func TestEveryKeyFromEverySource(t *testing.T) {
	inFiles(t)
	want := load(t, config.Source{File: write(t, "full.yaml", full)})

	var tree map[string]any
	if err := yaml.Unmarshal([]byte(full), &tree); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	leaves(t, "", tree, values)
	var environ []string
	var flags []config.Flag
	for _, k := range config.Keys() {
		v, ok := values[k.Name]
		if k.EnvOnly {
			if ok {
				t.Errorf("%s is in the file", k.Name)
			}
			continue
		}
		if !ok {
			t.Errorf("%s is not in the file: add it to the test", k.Name)
		}
		if v == k.Default && v != "" && k.Name != "store.postgres.lanes" { // which has only one value
			t.Errorf("%s is %s, its default, so that this test does not see it", k.Name, v)
		}
		environ = append(environ, k.Env+"="+v)
		flags = append(flags, config.Flag{Key: k.Name, Name: "--" + k.Name, Value: v})
	}

	asJSON, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	asTOML, err := toml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]config.Source{
		"json":        {File: write(t, "full.json", string(asJSON))},
		"toml":        {File: write(t, "full.toml", string(asTOML))},
		"environment": {Environ: environ},
		"flags":       {Flags: flags},
		"printed":     {File: write(t, "printed.yaml", string(want.YAML()))},
	} {
		if got := load(t, src); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
}

func TestEnvironmentNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, k := range config.Keys() {
		if other := seen[k.Env]; other != "" {
			t.Errorf("%s stands for %s and %s", k.Env, other, k.Name)
		}
		seen[k.Env] = k.Name
	}
	for _, env := range []string{"HEARTLINE_DATA_DIR", "HEARTLINE_MQTT_TLS_CERT_FILE", "HEARTLINE_FALLBACK_APNS_KEY_FILE", "HEARTLINE_FALLBACK_APNS_RETRY_MAX"} {
		if seen[env] == "" {
			t.Errorf("%s stands for nothing", env)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "heartline.yaml", "delivery: {ack_window: 1s, fallback_window: 1m, ttl: 1h}\n")
	environ := []string{"HEARTLINE_DELIVERY_ACK_WINDOW=2s", "HEARTLINE_DELIVERY_FALLBACK_WINDOW=2m"}
	flags := []config.Flag{
		{Key: "delivery.ack_window", Name: "--ack-window", Value: "8s"},
		{Key: "delivery.ack_window", Name: "--ack-window", Value: "4s"},
	}
	got := load(t, config.Source{File: file, Environ: environ, Flags: flags}).Delivery
	if got.AckWindow != 4*time.Second {
		t.Errorf("a flag, given twice, against environment and file: %s", got.AckWindow)
	}
	if got.FallbackWindow != 2*time.Minute {
		t.Errorf("environment against file: %s", got.FallbackWindow)
	}
	if got.TTL != time.Hour {
		t.Errorf("file against default: %s", got.TTL)
	}
	if got.MaxInflightPerDevice != 16 {
		t.Errorf("default: %d", got.MaxInflightPerDevice)
	}
}

func TestEmptyVariableIsAValue(t *testing.T) {
	if got := load(t, config.Source{Environ: []string{"HEARTLINE_MQTT_ADDRESS="}}).MQTT.Address; got != "" {
		t.Errorf("the listener is still on: %q", got)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	pem := inFiles(t)
	const password, jwt = "correct horse", "battery staple"
	c := load(t, config.Source{Environ: []string{
		"HEARTLINE_FALLBACK_APNS_ENABLED=true",
		"HEARTLINE_FALLBACK_APNS_KEY=" + pem, "HEARTLINE_FALLBACK_APNS_KEY_ID=ABC123DEFG", "HEARTLINE_FALLBACK_APNS_TEAM_ID=ABC123DEFG",
		"HEARTLINE_FALLBACK_APNS_CERTIFICATE_PASSWORD=" + password,
		"HEARTLINE_AUTH_MODE=jwt", "HEARTLINE_AUTH_JWT_SECRET=" + jwt,
	}})
	if got := c.Auth.JWT.Secret.Reveal(); got != jwt {
		t.Errorf("Reveal: %q", got)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	printed := string(c.YAML())
	for _, text := range []string{
		printed, string(asJSON), string(asYAML),
		fmt.Sprintf("%v %+v %#v", c, c, c),
		fmt.Sprintf("%x %q %#v", c.Auth.JWT.Secret, c.Auth.JWT.Secret, c.Auth.JWT),
		fmt.Sprint(c.Auth.JWT.Secret),
	} {
		for _, secret := range []string{pem, password, jwt, strings.Split(pem, "\n")[1], fmt.Sprintf("%x", jwt)} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is shown: %s", text)
			}
		}
	}
	if !strings.Contains(printed, "# secret: [secret], from HEARTLINE_AUTH_JWT_SECRET\n") {
		t.Errorf("the printed configuration does not say that there is a secret:\n%s", printed)
	}

	// Nor does an error show what may be one.
	for _, src := range []config.Source{
		{File: write(t, "c.yaml", "auth: {jwt: {secret: battery staple}}")},
		{File: write(t, "c.yaml", "fallback: {apns: {certificate_password: battery staple}}")},
		{File: write(t, "c.yaml", "auth: {http: {url: 'https://me:battery staple@auth.example.com'}}")},
		{File: write(t, "c.yaml", "auth: {http: {url: 'ftp://battery staple@auth.example.com'}}")},
		{File: write(t, "c.yaml", "auth: {password: battery staple}")},
		{Environ: []string{"HEARTLINE_PASSWORD=battery staple"}},
		{Environ: []string{"HEARTLINE_AUTH_JWT_SECRET=battery staple\xff"}},
	} {
		lines := findings(t, src)
		if len(lines) != 1 || strings.Contains(lines[0], "staple") {
			t.Errorf("got %q", lines)
		}
	}
}

func TestReadSecret(t *testing.T) {
	inFiles(t)
	for _, tt := range []struct {
		env  config.Secret
		file string
		want string
	}{
		{"", "", ""},
		{"from env\n", "", "from env\n"},
		{"", "password", "hunter2"},
		{"from env", "password", "from env"},
	} {
		got, err := config.ReadSecret(tt.env, tt.file)
		if err != nil || string(got) != tt.want {
			t.Errorf("%q, %q: got %q, %v", string(tt.env), tt.file, got, err)
		}
	}
	if _, err := config.ReadSecret("", "missing"); err == nil {
		t.Error("no error for a missing file")
	}
}

func TestVariablesOfOthersAreLeftAlone(t *testing.T) {
	load(t, config.Source{Environ: []string{
		"HEARTLINE_TOKEN=x", "HEARTLINE_TOKEN_FILE=x", "HEARTLINE_SERVER=x", "HEARTLINE_CONFIG=x",
		// What Kubernetes sets for Services "heartline" and "heartline-mqtt".
		"HEARTLINE_SERVICE_HOST=10.0.0.1", "HEARTLINE_SERVICE_PORT=1883", "HEARTLINE_SERVICE_PORT_HTTP=8080",
		"HEARTLINE_PORT=tcp://10.0.0.1:1883", "HEARTLINE_PORT_1883_TCP=tcp://10.0.0.1:1883",
		"HEARTLINE_PORT_1883_TCP_PROTO=tcp", "HEARTLINE_PORT_1883_TCP_PORT=1883", "HEARTLINE_PORT_1883_TCP_ADDR=10.0.0.1",
		"HEARTLINE_MQTT_SERVICE_HOST=10.0.0.2", "HEARTLINE_MQTT_PORT=tcp://10.0.0.2:1883", "HEARTLINE_MQTT_PORT_1883_TCP_ADDR=10.0.0.2",
	}})
}

// TestFindings covers the findings about files, variables and flags that come before any
// rule: each line names its place, the expected and the given value.
func TestFindings(t *testing.T) {
	const noUnit = "must be a duration with a unit: write a unit, as in 5s, 10m or 24h"
	const noSize = "must be a size with a unit: write a unit, as in 512KiB, 1MiB or 100B"
	for _, tt := range []struct {
		name, text string // of the file; name "" reads none
		environ    []string
		flags      []config.Flag
		want       []string
	}{
		{name: "a.yaml", text: "mqtt: {adress: x}", want: []string{"mqtt.adress: is no key of Heartline; did you mean mqtt.address?"}},
		{name: "a.yaml", text: "delivery: {zzzzzz: x}", want: []string{"delivery.zzzzzz: is no key of Heartline"}},
		{name: "a.yaml", text: "MQTT: {address: x}", want: []string{"MQTT: is no key of Heartline"}},
		{name: "a.yaml", text: "mqtt.address: x", want: []string{"mqtt.address: must be written as a section and its keys, not with a dot"}},
		{name: "a.yaml", text: "mqtt: {1: x}", want: []string{"mqtt.1: is no key of Heartline"}},
		{name: "a.yaml", text: "delivery: {ack_window: 5}", want: []string{"delivery.ack_window: " + noUnit + ", got 5"}},
		{name: "a.yaml", text: "delivery: {ack_window: '5'}", want: []string{"delivery.ack_window: " + noUnit + ", got 5"}},
		{name: "a.yaml", text: "delivery: {ack_window: fast}", want: []string{"delivery.ack_window: " + noUnit + ", got fast"}},
		{name: "a.yaml", text: "delivery: {ack_window: [5s]}", want: []string{"delivery.ack_window: " + noUnit + ", got [...]"}},
		{name: "a.toml", text: "delivery.ack_window = 5", want: []string{"delivery.ack_window: " + noUnit + ", got 5"}},
		{name: "a.toml", text: "delivery.ttl = 07:32:00", want: []string{"delivery.ttl: " + noUnit + ", got 07:32:00"}},
		{name: "a.json", text: `{"delivery":{"ack_window":5}}`, want: []string{"delivery.ack_window: " + noUnit + ", got 5"}},
		{name: "a.yaml", text: "mqtt: {max_packet_size: 1048576}", want: []string{"mqtt.max_packet_size: " + noSize + ", got 1048576"}},
		{name: "a.yaml", text: "mqtt: {max_packet_size: 1 MiBi}", want: []string{`mqtt.max_packet_size: ` + noSize + `, got "1 MiBi"`}},
		{name: "a.yaml", text: "mqtt: {max_packet_size: 99999999TiB}", want: []string{`mqtt.max_packet_size: ` + noSize + `, got 99999999TiB`}},
		{name: "a.yaml", text: "mqtt: {max_connections: many, persistence: 1}", want: []string{
			"mqtt.persistence: must be true or false, got 1",
			"mqtt.max_connections: must be a whole number, got many",
		}},
		{name: "a.yaml", text: "mqtt: {max_connections: 1.5}", want: []string{"mqtt.max_connections: must be a whole number, got 1.5"}},
		{name: "a.json", text: `{"mqtt":{"max_connections":1e300}}`, want: []string{"mqtt.max_connections: must be a whole number, got 1e+300"}},
		{name: "a.yaml", text: "fallback: {apns: {key_id: 1234567E89}}", want: []string{"fallback.apns.key_id: must be text; put it in quotes, got 1.234567e+95"}},
		{name: "a.yaml", text: "fallback: {apns: {team_id: 1234567890}}", want: []string{"fallback.apns.team_id: must be text; put it in quotes, got 1234567890"}},
		{name: "a.yaml", text: `data_dir: "a\nb"`, want: []string{`data_dir: must be one line of UTF-8 text without control characters, got "a\nb"`}},
		{name: "a.yaml", text: "mqtt:\n  address:\n", want: []string{`mqtt.address: has no value: write "" for none, or leave the key out for its default`}},
		{name: "a.yaml", text: "mqtt: 5", want: []string{"mqtt: must be a section with keys of its own, got 5"}},
		{name: "a.yaml", text: "delivery: [1]", want: []string{"delivery: must be a section with keys of its own, got [...]"}},
		{name: "a.yaml", text: "data_dir: {a: b}", want: []string{"data_dir: must be text; put it in quotes, got {...}"}},
		{name: "a.yaml", text: "auth: {jwt: {secret: x}}", want: []string{"auth.jwt.secret: must not be in a file: name a file that holds it in auth.jwt.secret_file, or set HEARTLINE_AUTH_JWT_SECRET"}},
		{name: "a.yaml", text: "fallback: {apns: {apps: x}}", want: []string{"fallback.apns.apps: must be a list, got x"}},
		{name: "a.yaml", text: "fallback: {apns: {apps: [x, {topik: a, key_id: 5}, {topic: }]}}", want: []string{
			"fallback.apns.apps[1].topik: is no key of Heartline; did you mean topic?",
			"fallback.apns.apps[0]: must be a section with keys of its own",
			"fallback.apns.apps[1].key_id: must be text; put it in quotes, got 5",
			`fallback.apns.apps[2].topic: has no value: write "" for none, or leave the key out for its default`,
		}},

		{name: "a.yaml", text: "a: b\nmqtt: [\n", want: []string{"a.yaml:2: did not find expected node content"}},
		{name: "a.yaml", text: "log:\n\tlevel: info\n", want: []string{"a.yaml:2: found character that cannot start any token"}},
		{name: "a.yaml", text: "log: {level: info}\nlog: {level: warn}\ndata_dir: a\ndata_dir: b\n", want: []string{
			`a.yaml:2: mapping key "log" already defined at line 1`, `a.yaml:4: mapping key "data_dir" already defined at line 3`,
		}},
		{name: "a.yaml", text: "log: {level: info}\n---\nlog: {level: warn}\n", want: []string{"a.yaml:2: holds a second YAML document (---), and only one is read"}},
		{name: "a.yaml", text: "- a\n", want: []string{"a.yaml:1: must hold keys and values"}},
		{name: "a.yaml", text: "just words\n", want: []string{"a.yaml:1: must hold keys and values"}},
		{name: "a.yaml", text: "log: {level: info}\nx: \"\xff\"\n", want: []string{"a.yaml:2: is not UTF-8: save the file with that encoding"}},
		{name: "a.yaml", text: "\xff\xfel\x00o\x00g\x00:\x00", want: []string{"a.yaml:1: is not UTF-8: save the file with that encoding"}},
		{name: "a.yaml", text: "\xEF\xBB\xBFlog: {level: loud}", want: []string{"log.level: must be debug, info, warn or error, got loud"}},
		{name: "a.json", text: "\xEF\xBB\xBF{\"log\": {\"level\": \"loud\"}}", want: []string{"log.level: must be debug, info, warn or error, got loud"}},
		{name: "a.toml", text: "\xEF\xBB\xBFlog.level = 'loud'", want: []string{"log.level: must be debug, info, warn or error, got loud"}},
		{name: "a.toml", text: "data_dir = 'x'\n[log\nlevel = 1\n", want: []string{"a.toml:2: expected character ]"}},
		{name: "a.toml", text: "data_dir = 'x'\ndata_dir = 'y'\n", want: []string{"a.toml: key data_dir is already defined"}},
		{name: "a.json", text: "{\n\"log\": {\"level\": 1,}}", want: []string{"a.json:2: invalid character '}' looking for beginning of object key string"}},
		{name: "a.json", text: "{}\n{}", want: []string{"a.json:2: invalid character '{' after top-level value"}},
		{name: "a.json", text: "[]", want: []string{"a.json:1: must hold an object: {...}"}},
		{name: "a.json", text: "{\"log\": {},\n\"log\":\n{\"level\": \"info\", \"level\": \"warn\"}}", want: []string{`a.json:2: key "log" is there twice`, `a.json:3: key "log.level" is there twice`}},
		{name: "heartline.conf", text: "", want: []string{"heartline.conf: is of no known format: its name must end in .yaml, .yml, .toml or .json"}},
		{name: "big.yaml", text: strings.Repeat("# nothing\n", 200_000), want: []string{"big.yaml: cannot be read: it is larger than 1MiB"}},

		{environ: []string{"HEARTLINE_DELIVERY_ACK_WINDWO=5s"}, want: []string{"HEARTLINE_DELIVERY_ACK_WINDWO: is no variable of Heartline; did you mean HEARTLINE_DELIVERY_ACK_WINDOW?"}},
		{environ: []string{"HEARTLINE_HTTP_PORT=80"}, want: []string{"HEARTLINE_HTTP_PORT: is no variable of Heartline"}},
		{environ: []string{"HEARTLINE_MQTT_PERSISTENCE=perhaps"}, want: []string{"mqtt.persistence: must be true or false, got perhaps (from HEARTLINE_MQTT_PERSISTENCE)"}},
		{environ: []string{"HEARTLINE_DELIVERY_TTL="}, want: []string{"delivery.ttl: " + noUnit + `, got "" (from HEARTLINE_DELIVERY_TTL)`}},
		{environ: []string{"HEARTLINE_DELIVERY_TTL=900h"}, want: []string{"delivery.ttl: must be at most 720h, got 900h (from HEARTLINE_DELIVERY_TTL)"}},
		{environ: []string{"HEARTLINE_MQTT_MAX_CONNECTIONS=1e3"}, want: []string{"mqtt.max_connections: must be a whole number, got 1e3 (from HEARTLINE_MQTT_MAX_CONNECTIONS)"}},
		{environ: []string{"HEARTLINE_DATA_DIR=\xff"}, want: []string{`data_dir: must be one line of UTF-8 text without control characters, got "\xff" (from HEARTLINE_DATA_DIR)`}},
		{environ: []string{"HEARTLINE_FALLBACK_APNS_APPS=topic"}, want: []string{"fallback.apns.apps: must be a list written as JSON: invalid character 'o' in literal true (expecting 'r') (from HEARTLINE_FALLBACK_APNS_APPS)"}},
		{environ: []string{`HEARTLINE_FALLBACK_APNS_APPS=[{"topik":"a"}]`}, want: []string{
			"fallback.apns.apps[0].topik: is no key of Heartline; did you mean topic? (from HEARTLINE_FALLBACK_APNS_APPS)",
		}},
		{flags: []config.Flag{{Key: "mqtt.address", Name: "--mqtt-address", Value: "1883"}}, want: []string{`mqtt.address: must be host:port with a port from 0 to 65535, or "" for none, got 1883 (from --mqtt-address)`}},

		// All at once, and no rule about a value that could not be read: the
		// fallback window is fine whatever ack_window will be.
		{
			name: "a.yaml", text: "delivery: {ack_window: 5, fallback_window: 1s, ttl: 900h}\nlog: {level: loud}\nmqtt: {adress: x}\n",
			environ: []string{"HEARTLINE_MQT_ADDRESS=x", "HEARTLINE_STORE_ENGINE=bolt"},
			want: []string{
				"mqtt.adress: is no key of Heartline; did you mean mqtt.address?",
				"HEARTLINE_MQT_ADDRESS: is no variable of Heartline; did you mean HEARTLINE_MQTT_ADDRESS?",
				"delivery.ack_window: " + noUnit + ", got 5",
				"delivery.ttl: must be at most 720h, got 900h",
				"store.engine: must be pebble, journal, postgres or memory, got bolt (from HEARTLINE_STORE_ENGINE)",
				"log.level: must be debug, info, warn or error, got loud",
			},
		},
	} {
		src := config.Source{Environ: tt.environ, Flags: tt.flags}
		if tt.name != "" {
			src.File = write(t, tt.name, tt.text)
		}
		if got := findings(t, src); !slices.Equal(got, tt.want) {
			t.Errorf("%s %.60q %q:\ngot  %s\nwant %s", tt.name, tt.text, tt.environ, strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"missing.yaml": "missing.yaml: cannot be read: no such file or directory",
		"folder.yaml":  "folder.yaml: cannot be read: it is a directory",
	} {
		// Whatever else is wrong is said too.
		got := findings(t, config.Source{File: filepath.Join(dir, file), Environ: []string{"HEARTLINE_LOG_FORMAT=xml"}})
		if !slices.Equal(got, []string{want, "log.format: must be text or json, got xml (from HEARTLINE_LOG_FORMAT)"}) {
			t.Errorf("%s: got %q", file, got)
		}
	}
}

// TestLargeNamedFiles: users, key sets and revocation lists grow with the people, and so does
// a file of them beyond the size of any configuration.
func TestLargeNamedFiles(t *testing.T) {
	inFiles(t)
	users := write(t, "users.yaml", strings.Repeat("# a user of many\n", 1<<20/8))
	c := load(t, config.Source{Environ: []string{"HEARTLINE_AUTH_MODE=file", "HEARTLINE_AUTH_FILE_PATH=" + users}})
	if c.Auth.File.Path != users {
		t.Errorf("got %q", c.Auth.File.Path)
	}
	huge := write(t, "huge.yaml", "")
	if err := os.Truncate(huge, 64<<20+1); err != nil {
		t.Fatal(err)
	}
	want := "auth.file.path: must name a file that can be read (it is larger than 64MiB), got " + huge
	got := findings(t, config.Source{Environ: []string{"HEARTLINE_AUTH_MODE=file", "HEARTLINE_AUTH_FILE_PATH=" + huge}})
	if len(got) != 1 || !strings.HasPrefix(got[0], want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseByteSize(t *testing.T) {
	for text, want := range map[string]config.ByteSize{
		"0": 0, "0B": 0, "100B": 100, "1kB": 1000, "1KB": 1000, "1KiB": 1024, "3 MiB": 3 << 20, "10MB": 10_000_000,
		"2GiB": 2 << 30, "1GB": 1_000_000_000, "1TiB": 1 << 40, "1TB": 1_000_000_000_000,
	} {
		got, err := config.ParseByteSize(text)
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
		if again, err := config.ParseByteSize(got.String()); err != nil || again != got {
			t.Errorf("%s: prints as %s, which is %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "1", "1024", "B", "1m", "1mb", "1 M iB", "-1B", "1.5MiB", "1e3B", "8388608TiB", "99999999999999999999B", "1MiBB"} {
		if got, err := config.ParseByteSize(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(full, "yaml", "")
	f.Add(string(config.Example()), "yaml", "")
	f.Add("a: &a [*a]\nmqtt: *a\n<<: {log: {}}", "yaml", "HEARTLINE_FALLBACK_APNS_APPS=[{}]")
	f.Add("[delivery]\nack_window = 5\n[[fallback.apns.apps]]\ntopic = 'a'", "toml", "HEARTLINE_DELIVERY_ACK_WINDOW=1h")
	f.Add(`{"mqtt":{"max_packet_size":"1MB","tls":null},"store":[]}`, "json", "HEARTLINE_X=")
	f.Add(`{"":{"":1},"a\nb":2}`, "json", "HEARTLINE_A\n\x00=1")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, format, environ string) {
		if format != "yaml" && format != "toml" && format != "json" {
			t.Skip("not a format that Load reads; TestFindings has a file of such a format")
		}
		file := filepath.Join(dir, "heartline."+format)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Source{File: file, Environ: []string{environ}})
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if at, rule, ok := strings.Cut(line, ": "); !ok || at == "" || rule == "" {
					t.Errorf("a finding without its place: %q", line)
				}
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("loaded and yet invalid: %v", err)
		}
		if strings.Contains(string(c.YAML()), "[secret]") {
			return // what is printed lacks it, on purpose
		}
		printed := filepath.Join(dir, "printed.yaml")
		if err := os.WriteFile(printed, c.YAML(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := config.Load(config.Source{File: printed})
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("printed:\n%s\nloads as %+v, %v\nwant %+v", c.YAML(), again, err, c)
		}
	})
}
