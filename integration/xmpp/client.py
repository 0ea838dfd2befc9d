"""A device on slixmpp. Arguments: host, port, user, component, device-id, APNs token, and
"deaf" for one that does not know notifications: the library itself answers them.

It registers, announces itself and answers. It prints a line for each step; "kill" on its
standard input drops the connection as a lost network does."""
import asyncio
import os
import socket
import struct
import sys

import slixmpp
from slixmpp.xmlstream import ET
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

host, port, user, component, device, token = sys.argv[1:7]
deaf = sys.argv[7:] == ["deaf"]
NS = "urn:heartline:1"


class Device(slixmpp.ClientXMPP):
    def __init__(self):
        super().__init__(user + "/phone", "secret")
        self.register_plugin("xep_0198")
        self["feature_mechanisms"].unencrypted_plain = True
        self["feature_mechanisms"].unencrypted_scram = True
        self.add_event_handler("session_start", self.start)
        if not deaf:
            self.register_handler(Callback("heartline", MatchXPath("{jabber:client}iq/{%s}notification" % NS), self.notified))

    def notified(self, iq):  # the whole of a device: store it, answer
        print("notification", iq.xml.find("{%s}notification" % NS).text, flush=True)
        iq.reply().send()

    async def start(self, _):
        self.send_presence()
        answer = await self.ask(component, ET.fromstring(
            "<command xmlns='http://jabber.org/protocol/commands' node='register-push-apns' action='execute'><x xmlns='jabber:x:data' type='submit'>"
            "<field var='token'><value>%s</value></field><field var='device-id'><value>%s</value></field></x></command>" % (token, device)))
        values = {f.get("var"): f[0].text for f in answer.xml.iter("{jabber:x:data}field")}
        await self.ask(None, ET.fromstring(
            "<enable xmlns='urn:xmpp:push:0' jid='%(jid)s' node='%(node)s'><x xmlns='jabber:x:data' type='submit'>"
            "<field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>"
            "<field var='secret'><value>%(secret)s</value></field></x></enable>" % values))
        p = self.make_presence(pto=component)
        p.append(ET.fromstring("<device xmlns='%s' id='%s'/>" % (NS, device)))
        p.send()
        print("ready", values["node"], flush=True)

    async def ask(self, to, payload):
        iq = self.make_iq_set(ito=to)
        iq.append(payload)
        return await iq.send()


client = Device()


def command():
    if sys.stdin.readline().strip() == "kill":
        s = client.transport.get_extra_info("socket")
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os._exit(0)  # with the socket; its linger resets it


client.loop.add_reader(sys.stdin.fileno(), command)
client.connect((host, int(port)), use_ssl=False, force_starttls=False, disable_starttls=True)
client.loop.run_forever()
