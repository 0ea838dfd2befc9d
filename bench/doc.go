// Package bench is the load generator behind `heartline bench`: devices that
// subscribe and acknowledge, publishers that send to single devices, over MQTT to
// any broker or over Heartline's API, and an account of every message.
//
// Read bench.go first (Options, Run), then account.go (the messages sent to each device,
// and their outcome), stamp.go (how a message says which one it is), mqtt.go (the
// codec), device.go, and publisher.go or http.go; process.go watches what the run
// and the server cost.
//
// A device is one goroutine and one small buffer, a publisher two; nothing is
// started for a message, and none allocates. All of them have ended when Run
// returns. It imports nothing of ours: it has to be as good a client to other
// people's brokers.
package bench
