package wire

// WebhookList is the answer of GET /v1/webhooks.
type WebhookList struct {
	Webhooks []WebhookView `json:"webhooks"`
}

// WebhookView is how a webhook is doing.
type WebhookView struct {
	Name        string   `json:"name"`
	URL         string   `json:"url" doc:"Without its query"`
	State       string   `json:"state" enum:"ok,failing,disabled,elsewhere" doc:"failing: one request at a time is made until one succeeds; disabled: its receiver answered 410; elsewhere: another node sends it, and counts"`
	Since       string   `json:"since,omitempty" format:"date-time" doc:"Of disabled"`
	Reason      string   `json:"reason,omitempty" doc:"Of disabled and elsewhere"`
	Events      []string `json:"events,omitempty" doc:"Absent: all"`
	Accounts    []string `json:"accounts,omitempty" doc:"Absent: all"`
	Lag         float64  `json:"lag" doc:"Age in seconds of the oldest event that is still to be delivered, without parked ones"`
	Deferred    int      `json:"deferred" doc:"Events that were refused and are retried"`
	Parked      int      `json:"parked" doc:"Events for which every attempt has failed"`
	Delivered   uint64   `json:"delivered"`
	Failed      uint64   `json:"failed" doc:"Requests"`
	Dropped     uint64   `json:"dropped" doc:"Events that were not taken within receipts.retain"`
	LastSuccess string   `json:"last_success,omitempty" format:"date-time"`
	LastFailure string   `json:"last_failure,omitempty" format:"date-time"`
	LastError   string   `json:"last_error,omitempty"`
	NextAttempt string   `json:"next_attempt,omitempty" format:"date-time" doc:"While it is failing"`
}

// ParkedList is the answer of GET /v1/webhooks/parked.
type ParkedList struct {
	Parked []ParkedView `json:"parked"`
}

// ParkedView is an event for which every attempt has failed.
type ParkedView struct {
	WebhookID    string `json:"webhook_id" doc:"The header webhook-id of its requests"`
	Event        string `json:"event"`
	ID           string `json:"id,omitempty" doc:"The notification's; absent if it was erased"`
	Time         string `json:"time" format:"date-time"`
	Attempts     int    `json:"attempts"`
	FirstAttempt string `json:"first_attempt,omitempty" format:"date-time"`
	ParkedAt     string `json:"parked_at" format:"date-time"`
	Error        string `json:"error"`
}

// WebhookRetry is the answer of POST /v1/webhooks/retry.
type WebhookRetry struct {
	Retried int `json:"retried" doc:"Events that were parked"`
}

// WebhookTest is the answer of POST /v1/webhooks/test.
type WebhookTest struct {
	WebhookID string `json:"webhook_id"`
	Status    int    `json:"status,omitempty" doc:"Of the receiver's answer; absent: there was none"`
	Took      string `json:"took"`
	Error     string `json:"error,omitempty" doc:"Absent: the receiver took it"`
}
