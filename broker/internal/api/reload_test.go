package api_test

import (
	"context"
	"testing"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
)

// TestReload: admins only, and every mistake with its key.
func TestReload(t *testing.T) {
	var err error
	s := serve(t, withTokens, func(o *api.Options, _ *delivery.Options) {
		o.Reload = func(context.Context) error { return err }
	})
	s.wantProblem(s.do("POST", "/v1/reload", "", "Authorization", "Bearer service"), 403, "this call is for the role admin")
	s.want(s.do("POST", "/v1/reload", "", "Authorization", "Bearer admin"), 204, nil)
	err = &api.ReloadError{Faults: []api.ReloadFault{{Key: "log.level", Rule: "must be debug, info, warn or error"}, {Key: "delivery.ttl", Rule: "must be a duration"}}}
	s.wantProblem(s.do("POST", "/v1/reload", "", "Authorization", "Bearer admin"), 422, "log.level: must be debug, info, warn or error; delivery.ttl: must be a duration")
}
