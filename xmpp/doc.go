// Package xmpp makes XMPP clients devices: one XEP-0114 component (Gate) for each
// ejabberd or Prosody, with the same deliveries and the same acks as over MQTT.
//
// Read stanza.go (elements and the writers), reader.go (the stream in), link.go (one
// connection to the server), core.go (its port to the core), gate.go (the link's life),
// tenure.go (whose the link is, and the devices that come with it), inbound.go (stanzas in),
// lanes.go (calls that wait for the store), outbound.go (the outbound queue), then address.go, device.go (a client as a delivery.Channel), register.go (ad-hoc
// commands), publish.go (XEP-0357), disco.go and stats.go.
//
// Between Start and Stop a Gate runs these goroutines: run dials, reads and sorts
// stanzas; write drains the outbound queue; up to 256 workers of the lanes make the calls
// that may wait for the store, those of one account in order, and as many read the contents of
// notifications, those of one device in order; ping watches the server
// while the link is up; restore brings up the devices that were online. mu guards channels
// and queue. The core calls Channel.Publish with its own mutex held, so that nothing here calls the core with mu held. Stop ends all of
// them and leaves every device registered with its address: the next Start, here or
// elsewhere, goes on with them. TakeUp and GiveUp do the same for the link alone: of several
// nodes one at a time has it.
//
// It imports delivery, internal/backoff, internal/newcomers, internal/seldom, internal/text and wire.
package xmpp
