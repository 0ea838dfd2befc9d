/** A device of Heartline on MQTT.js. */
import mqtt from "mqtt";
import { Device, type MqttClient, type MqttConnect, type Options } from "./core/index.js";

export * from "./core/index.js";

/** Connects a device, and keeps it connected until it is closed, refused or signed out. */
export function connect(options: Options): Device {
  return new Device(connectQuietly, options);
}

// MQTT.js writes the packets of a turn after it. If a browser's socket has closed meanwhile, they
// are lost in any case, and the browser logs an error for the write.
const connectQuietly: MqttConnect = (url, options) => {
  const client = mqtt.connect(url, options);
  const socket = client.stream.socket; // a browser's WebSocket; undefined in Node.js
  if (socket) {
    const send = socket.send.bind(socket);
    socket.send = (data: unknown) => { if (socket.readyState === socket.OPEN) send(data); };
  }
  return client as unknown as MqttClient;
};
