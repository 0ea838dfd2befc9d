// A chat device on the command line: node chat.mjs ACCOUNT DEVICE.
import { createInterface } from "node:readline";
import { connect } from "../../clients/js/dist/index.js"; // "@heartline-mqtt/client" in an app of your own
import { fileStore } from "../../clients/js/dist/node/index.js";

const [account, id] = process.argv.slice(2);
if (!account || !id) {
  console.error("usage: node chat.mjs ACCOUNT DEVICE");
  process.exit(2);
}
const heartline = process.env.HEARTLINE_SERVER ?? "http://127.0.0.1:8080";
const backend = process.env.CHAT_BACKEND ?? "http://127.0.0.1:8090";

const unread = new Set();
const device = connect({
  url: heartline.replace(/^http/, "ws") + "/mqtt",
  account, device: id, password: process.env.CHAT_PASSWORD,
  store: await fileStore(process.env.CHAT_STORE ?? `${id}.shown`),
  show(n) {
    unread.add(n.id);
    console.log(`${n.title}: ${n.body}`);
  },
  dismiss({ id }) {
    if (unread.delete(id)) console.log("(read on another device)");
  },
  status(s) {
    console.log(`(${s.kind}${s.why ? ": " + s.why : ""})`);
  },
});

const input = createInterface({ input: process.stdin });
for await (const line of input) {
  const [, to, text] = /^(\S+): (.+)$/.exec(line) ?? [];
  if (line === "read") {
    for (const id of unread) await device.read(id);
    unread.clear();
  } else if (to) {
    try {
      const response = await fetch(backend + "/messages", { method: "POST", body: JSON.stringify({ from: account, to, text }) });
      if (response.status >= 300) throw new Error((await response.text()).trim());
    } catch (err) {
      console.log(`(not sent: ${err.message})`);
    }
  } else console.log("(NAME: TEXT to write, read to say that you have read)");
}
device.close();
