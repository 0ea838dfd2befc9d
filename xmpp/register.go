package xmpp

import (
	"context"
	"errors"
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
)

// The ad-hoc commands (XEP-0050), in the form that clients of other app servers speak.
const (
	commandAPNs   = "register-push-apns"
	commandFCM    = "register-push-fcm"
	commandNoAPNs = "unregister-push-apns"
	commandNoFCM  = "unregister-push-fcm"
)

// commands are all of them with their names for people.
func commands() [][2]string {
	return [][2]string{
		{commandAPNs, "Register for Apple push"}, {commandNoAPNs, "Unregister from Apple push"},
		{commandFCM, "Register for Firebase push"}, {commandNoFCM, "Unregister from Firebase push"},
	}
}

// onCommand registers the sender's device with a notification server, or unregisters it.
// The answer comes when that is on the disk.
func (g *Gate) onCommand(e *element, from string) {
	cmd := e.child(nsCommands, "command")
	if action := cmd.attr("action"); action != "" && action != "execute" && action != "complete" {
		g.fail(e, fault{"modify", "bad-request", "the commands have one step: action execute"})
		return
	}
	fields, err := g.runCommand(cmd.attr("node"), bare(from), cmd.child(nsForm, "x"))
	if errors.Is(err, errNoCommand) {
		g.fail(e, fault{kind: "cancel", condition: "item-not-found"})
		return
	}
	if err != nil {
		g.seldom.Info(g.log, "registration refused", "account", bare(from), "error", err)
		g.fail(e, faultOf(err))
		return
	}
	b := appendIQ(nil, "result", to(e, g.opts.Domain), from, e.attr("id"), false)
	b = append(b, "<command xmlns='"+nsCommands+"' status='completed'"...)
	b = appendAttr(appendAttr(b, "node", cmd.attr("node")), "sessionid", g.prefix+"1")
	b = append(b, '>')
	if len(fields) > 0 {
		b = appendForm(b, "result", fields...)
	}
	g.mayComeBack(from)
	g.send(append(b, "</command></iq>"...))
}

var errNoCommand = errors.New("no such command")

func (g *Gate) runCommand(node, account string, form *element) ([]formField, error) {
	var server string
	switch node {
	case commandAPNs, commandNoAPNs:
		server = delivery.ServerAPNs
	case commandFCM, commandNoFCM:
		server = delivery.ServerFCM
	default:
		return nil, errNoCommand
	}
	if err := delivery.ValidAccount(account); err != nil {
		return nil, err
	}
	id := form.field("device-id")
	if id == "" {
		id = form.field("android-id")
	}
	if id == "" || len(id) > maxDeviceID {
		return nil, &delivery.FieldError{Field: "device-id", Rule: fmt.Sprintf("must have 1 to %d bytes", maxDeviceID)}
	}
	device := DeviceID(account, id)
	ctx, cancel := context.WithTimeout(g.ctx, storePatience)
	defer cancel()
	if node == commandNoAPNs || node == commandNoFCM {
		if err := g.core.RemoveRegistrations(device, account, server, ""); err != nil {
			return nil, err
		}
		return nil, g.core.Flush(ctx)
	}
	r := delivery.Registration{Server: server, Token: form.field("token")}
	if server == delivery.ServerAPNs {
		r.App, r.Environment = form.field("topic"), form.field("environment")
	} else {
		r.App, r.Form = form.field("project"), delivery.FormToken
	}
	known, err := g.admit(account, device)
	if err != nil {
		return nil, err
	}
	defer known()
	// In this order: a registration that is refused makes no device known.
	if err := g.core.SetRegistration(device, account, r); err != nil {
		return nil, err
	}
	if err := g.core.RegisterVia(device, account, delivery.ViaXMPP); err != nil {
		return nil, err
	}
	if err := g.core.Flush(ctx); err != nil {
		return nil, err
	}
	return []formField{
		{"jid", "jid-single", g.opts.Domain}, {"node", "text-single", device}, {"secret", "text-single", g.secret(account, device)},
	}, nil
}
