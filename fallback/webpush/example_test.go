package webpush_test

import (
	"fmt"

	"github.com/heartline-mqtt/heartline/fallback/webpush"
)

// An endpoint is a secret; its host may be shown.
func ExampleService() {
	fmt.Println(webpush.Service("updates.push.services.mozilla.com"))
	// Output: mozilla
}
