package xmpp

// onGet answers service discovery (XEP-0030) and pings (XEP-0199).
func (g *Gate) onGet(e *element, from string) {
	reply := func(query string) []byte {
		g.mayComeBack(from)
		b := appendIQ(nil, "result", to(e, g.opts.Domain), from, e.attr("id"), false)
		return append(b, query...)
	}
	switch {
	case e.child(nsPing, "ping") != nil:
		g.answer(e, nil)
	case e.child(nsInfo, "query") != nil && e.child(nsInfo, "query").attr("node") == "":
		g.send(reply("<query xmlns='" + nsInfo + "'><identity category='pubsub' type='push' name='Heartline'/>" +
			"<feature var='" + nsInfo + "'/><feature var='" + nsPush + "'/><feature var='" + nsCommands + "'/>" +
			"<feature var='" + nsPing + "'/><feature var='" + nsHeartline + "'/></query></iq>"))
	case e.child(nsItems, "query") != nil:
		b := append(reply("<query xmlns='"+nsItems+"'"), '>')
		if node := e.child(nsItems, "query").attr("node"); node == nsCommands {
			b = append(reply("<query xmlns='"+nsItems+"'"), " node='"+nsCommands+"'>"...)
			for _, c := range commands() {
				b = append(b, "<item"...)
				b = appendAttr(appendAttr(appendAttr(b, "jid", g.opts.Domain), "node", c[0]), "name", c[1])
				b = append(b, "/>"...)
			}
		}
		g.send(append(b, "</query></iq>"...))
	default:
		g.fail(e, fault{kind: "cancel", condition: "service-unavailable"})
	}
}
