// The chat's backend: POST /messages {"from","to","text"}. It notifies the receiver; all
// messages between two people are one conversation on the screen (thread).
import { createServer } from "node:http";

const heartline = process.env.HEARTLINE_SERVER ?? "http://127.0.0.1:8080";
const token = process.env.HEARTLINE_TOKEN; // of a service, with auth.mode on

async function send({ from, to, text }) {
  const response = await fetch(heartline + "/v1/notifications", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(token ? { Authorization: "Bearer " + token } : {}) },
    body: JSON.stringify({
      account: to, title: from, body: text,
      thread: [from, to].sort().join("-"),
      extra: { from }, // in every copy, for the app
      data: { from, text, sent: new Date().toISOString() }, // the full message, in the foreground
    }),
  });
  return { status: response.status, body: await response.text() };
}

// read returns a message, or says what is wrong with it.
function read(body) {
  const message = JSON.parse(body);
  for (const name of ["from", "to", "text"]) if (typeof message?.[name] !== "string" || message[name] === "") throw new Error(name + " is missing");
  return message;
}

const server = createServer(async (request, response) => {
  if (request.method !== "POST" || request.url !== "/messages") {
    response.writeHead(404).end("POST /messages\n");
    return;
  }
  let status = 400;
  try {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk; // a character may come in two chunks
    const message = read(body);
    status = 502; // what fails now is not the sender's fault
    const answer = await send(message);
    response.writeHead(answer.status, { "Content-Type": "application/json" }).end(answer.body);
  } catch (err) {
    response.writeHead(status).end(err.message + "\n");
  }
});
server.listen(Number(process.env.PORT ?? 8090), "127.0.0.1", () => console.log(`chat backend on http://127.0.0.1:${server.address().port}`));
