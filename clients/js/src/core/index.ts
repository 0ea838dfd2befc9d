/** The core: no DOM, no Node.js, no MQTT.js. "@heartline-mqtt/client" adds MQTT.js to it. */
export { badName, Device, ownerOf, type Options } from "./device.js";
export { NotConnectedError, RefusedError, type MqttClient, type MqttConnect, type Publication, type QoS, type Status, type Will } from "./link.js";
export { plainTimers, type Timers } from "./platform.js";
export { readFCM, readPush, type FCM, type Push, type Proposed } from "./push.js";
export { keyOf, Registrar, type Manager, type Records, type Registered, type Subscription } from "./registration.js";
export { Shown, type How, type Item, type ItemStore, type Lock, type Outcome, type Store } from "./shown.js";
export { keyValueStore, memoryStore, newLock, type KeyValue } from "./stores.js";
export type { AckStatus, AppState, Dismissal, Localized, Message, Pseudo, PushToken } from "./wire.js";
