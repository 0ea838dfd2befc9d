package api_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/delivery"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has changed (-update writes it anew):\n got %s\nwant %s", path, got, want)
	}
}

// TestOpenAPIWithoutTokens: a client that was generated from a trial server knows of
// tokens; servers and arrays are as generators need them.
func TestOpenAPIWithoutTokens(t *testing.T) {
	var doc struct {
		Servers    []struct{ URL string }
		Paths      map[string]map[string]struct{ Security []map[string][]string }
		Components struct {
			SecuritySchemes map[string]struct{ Type string }
			Schemas         map[string]struct{ Properties map[string]json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(serve(t).do("GET", "/openapi.json", "").text), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Servers) != 1 || doc.Servers[0].URL != "/" {
		t.Errorf("servers: %+v", doc.Servers)
	}
	if doc.Components.SecuritySchemes["bearer"].Type != "http" || doc.Components.SecuritySchemes["basic"].Type != "http" {
		t.Errorf("security schemes: %+v", doc.Components.SecuritySchemes)
	}
	if got := fmt.Sprint(doc.Paths["/v1/notifications"]["post"].Security); got != "[map[bearer:[]] map[]]" {
		t.Errorf("security of notify: %s", got)
	}
	for name, s := range doc.Components.Schemas {
		for property, text := range s.Properties {
			if strings.Contains(string(text), `["array","null"]`) {
				t.Errorf("%s.%s may be null: %s", name, property, text)
			}
		}
	}
}

// TestOpenAPIBounds: a client that checks a body by the document accepts what the server accepts.
func TestOpenAPIBounds(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				AdditionalProperties bool
				Properties           map[string]struct{ MaxLength int }
			}
		}
	}
	if err := json.Unmarshal([]byte(serve(t).do("GET", "/openapi.json", "").text), &doc); err != nil {
		t.Fatal(err)
	}
	schemas := doc.Components.Schemas
	if !schemas["WebPushSubscription"].AdditionalProperties {
		t.Error("a browser's subscription has expirationTime, too")
	}
	for _, c := range []struct {
		schema, property string
		want             int
	}{
		{"APNsToken", "token", 256}, {"APNsToken", "topic", 155},
		{"Notification", "thread", delivery.MaxName}, {"Notification", "sound", delivery.MaxName}, {"Notification", "category", delivery.MaxName},
	} {
		if got := schemas[c.schema].Properties[c.property].MaxLength; got != c.want {
			t.Errorf("%s.%s: %d, want %d", c.schema, c.property, got, c.want)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	s := serve(t, withTokens, func(o *api.Options, _ *delivery.Options) { o.Overview = overview.New(overview.Options{}) })
	r := s.do("GET", "/openapi.json", "")
	if ct := r.Header.Get("Content-Type"); r.StatusCode != 200 || ct != "application/openapi+json" {
		t.Fatal(r.Status, ct)
	}
	var doc struct {
		OpenAPI    string
		Info       struct{ Title, Version string }
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas         map[string]json.RawMessage
			SecuritySchemes map[string]struct{ Type, Scheme string }
		}
	}
	if err := json.Unmarshal([]byte(r.text), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") || doc.Info.Title != "Heartline" || doc.Info.Version != "1.2.3" {
		t.Errorf("%s %+v", doc.OpenAPI, doc.Info)
	}
	if b := doc.Components.SecuritySchemes["bearer"]; b.Type != "http" || b.Scheme != "bearer" {
		t.Error(doc.Components.SecuritySchemes)
	}
	var operations []string
	ids := map[string]bool{}
	for path, item := range doc.Paths {
		for method, text := range item {
			var op struct {
				OperationID string
				Summary     string
				Parameters  []struct {
					Name, In string
					Required bool
				}
				RequestBody struct{ Content map[string]any }
				Responses   map[string]struct {
					Description string
					Content     map[string]any
				}
				Security []map[string][]string
			}
			if err := json.Unmarshal(text, &op); err != nil {
				t.Fatal(err)
			}
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" {
				t.Errorf("%s %s: operationId %q, summary %q", method, path, op.OperationID, op.Summary)
			}
			ids[op.OperationID] = true
			if strings.HasPrefix(path, "/v1/") != (op.Security != nil) {
				t.Errorf("%s %s: security %v", method, path, op.Security)
			}
			for part := range strings.SplitSeq(path, "/") {
				if name, ok := strings.CutPrefix(part, "{"); ok && !slices.ContainsFunc(op.Parameters, func(p struct {
					Name, In string
					Required bool
				}) bool {
					return p.Name+"}" == name && p.In == "path" && p.Required
				}) {
					t.Errorf("%s %s: no parameter %s", method, path, part)
				}
			}
			line := fmt.Sprintf("%s %s %s", strings.ToUpper(method), path, op.OperationID)
			var params, bodies, responses []string
			for _, p := range op.Parameters {
				if p.In == "query" {
					params = append(params, p.Name)
				}
			}
			for ct := range op.RequestBody.Content {
				bodies = append(bodies, ct)
			}
			for status, resp := range op.Responses {
				if resp.Description == "" {
					t.Errorf("%s %s: %s is not described", method, path, status)
				}
				for _, ct := range slices.Sorted(maps.Keys(resp.Content)) {
					if (status >= "400") != (ct == "application/problem+json") {
						t.Errorf("%s %s: %s is %s", method, path, status, ct)
					}
					if status < "400" {
						status += " " + ct
					}
				}
				responses = append(responses, status)
			}
			slices.Sort(params)
			slices.Sort(bodies)
			slices.Sort(responses)
			if params != nil {
				line += " ?" + strings.Join(params, "&")
			}
			if bodies != nil {
				line += " < " + strings.Join(bodies, ", ")
			}
			operations = append(operations, line+" > "+strings.Join(responses, ", "))
		}
	}
	slices.Sort(operations)
	golden(t, "operations.txt", strings.Join(operations, "\n")+"\n")

	// Every reference leads somewhere.
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				if name, ok := strings.CutPrefix(ref, "#/components/schemas/"); !ok || doc.Components.Schemas[name] == nil {
					t.Errorf("no %s", ref)
				}
			}
			for _, x := range v {
				refs(x)
			}
		case []any:
			for _, x := range v {
				refs(x)
			}
		}
	}
	var whole any
	if err := json.Unmarshal([]byte(r.text), &whole); err != nil {
		t.Fatal(err)
	}
	refs(whole)

	var notification struct {
		Required             []string
		Properties           map[string]any
		AdditionalProperties bool
	}
	if err := json.Unmarshal(doc.Components.Schemas["Notification"], &notification); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(notification.Required) != "[account]" || len(notification.Properties) != 25 || notification.AdditionalProperties {
		t.Errorf("%+v", notification)
	}
	for _, name := range []string{"ttl", "ack_window"} {
		p, _ := notification.Properties[name].(map[string]any)
		if got := fmt.Sprint(p["oneOf"]); got != "[map[type:string] map[enum:[0] type:integer]]" || p["description"] == nil || p["examples"] == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
}
