/** A device of Heartline on MQTT.js. */
import mqtt from "mqtt";
import { Device, type MqttConnect, type Options } from "./core/index.js";

export * from "./core/index.js";

/** Connects a device, and keeps it connected until it is closed, refused or signed out. */
export function connect(options: Options): Device {
  return new Device(mqtt.connect as unknown as MqttConnect, options);
}
