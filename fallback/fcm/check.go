package fcm

import (
	"context"
	"errors"
	"fmt"
)

// checkBody is a message to a token that nobody has. validate_only: Google checks it
// and sends nothing.
// https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
const checkBody = `{"validate_only":true,"message":{"token":"heartline-configuration-check","data":{}}}`

// Check asks Google whether each project's service account may send, and sends nothing.
// Google refuses the made-up token where everything else is right. The error names each
// project that cannot be used, with what to do.
func (p *Pusher) Check(ctx context.Context) error {
	var errs []error
	for _, app := range p.list {
		x := p.apps[app.Name]
		token, err := x.access.get(ctx, "")
		if err != nil {
			errs = append(errs, fmt.Errorf("fallback.fcm: project %s: %w", app.Name, err))
			continue
		}
		if _, pe, _ := p.send(ctx, x, token, []byte(checkBody)); pe != nil && !pe.Suspend && !pe.TokenGone {
			errs = append(errs, fmt.Errorf("fallback.fcm: project %s: %w", app.Name, pe))
		}
	}
	return errors.Join(errs...)
}
