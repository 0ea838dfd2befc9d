package apns

import "net/http"

// reaction is the one right thing to do after an answer of Apple's.
type reaction uint8

const (
	// reactRetry: a passing failure. Backoff by the core, breaker by the lane.
	reactRetry reaction = iota
	// reactReconnect: the connection is at fault; once more at once on a new one,
	// then reactRetry.
	reactReconnect
	// reactNewKeyConnection: as reactReconnect, then reactConfig.
	reactNewKeyConnection
	// reactNewToken: once more at once with a new provider token on a new
	// connection, if one may be made; otherwise reactConfig.
	reactNewToken
	// reactOldToken: the provider token was changed too soon. Back to the one
	// before, or, if that has ended, reactConfig for 20 minutes.
	reactOldToken
	// reactThrottle: no request for this device token for a while.
	reactThrottle
	// reactGone: the registration is no more.
	reactGone
	// reactSuspend: the server does not take the device token, which a wrong topic,
	// environment or credential can cause for every token. Suspend it.
	reactSuspend
	// reactShorter: once more at once with a payload that only tells the app to
	// fetch, then reactBug.
	reactShorter
	// reactBug: the request is wrong, and it was made here. Never again.
	reactBug
	// reactConfig: pause the app, keep the work, call for help.
	reactConfig
)

// answer is a row of Apple's table.
type answer struct {
	status int
	reason string
	do     reaction
	help   string
}

const wrongEnvironment = "not a token of this app in this environment (tokens of development builds belong to sandbox, those of TestFlight and the App Store to production)"

// answers is every status and reason that Apple publishes, and the one reaction
// to it.
// https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
//
// Apple never wants BadDeviceToken, DeviceTokenNotForTopic, Forbidden,
// ExpiredToken, Unregistered and PayloadTooLarge retried as they were.
var answers = []answer{
	{400, "BadCollapseId", reactBug, ""},
	{400, "BadDeviceToken", reactSuspend, wrongEnvironment},
	{400, "BadExpirationDate", reactBug, ""},
	{400, "BadMessageId", reactBug, ""},
	{400, "BadPriority", reactBug, ""},
	{400, "BadTopic", reactConfig, "check the topic: it must be the app's bundle ID"},
	{400, "DeviceTokenNotForTopic", reactSuspend, "the token belongs to another app than its registration says"},
	{400, "DuplicateHeaders", reactBug, ""},
	{400, "IdleTimeout", reactReconnect, ""},
	{400, "InvalidPushType", reactBug, ""},
	{400, "MissingDeviceToken", reactBug, ""},
	{400, "MissingTopic", reactConfig, "set the topic"},
	{400, "PayloadEmpty", reactBug, ""},
	{400, "TopicDisallowed", reactSuspend, "the key or certificate may not push to this topic, or the token is of another kind, such as VoIP"},
	{403, "BadCertificate", reactConfig, "replace the certificate"},
	{403, "BadCertificateEnvironment", reactConfig, "the certificate is for the other environment"},
	{403, "BadEnvironmentKeyIdInToken", reactConfig, "the key is for the other environment"},
	{403, "ExpiredProviderToken", reactNewToken, "the provider token was refused right after it was made: check this machine's clock"},
	{403, "Forbidden", reactConfig, "the key or certificate may not do this"},
	{403, "InvalidProviderToken", reactConfig, "check key_file, key_id and team_id: they must belong together; Apple also refuses a revoked key, and a token from a machine whose clock is fast"},
	{403, "MissingProviderToken", reactConfig, "set key_file, key_id and team_id, or certificate_file"},
	{403, "UnrelatedKeyIdInToken", reactNewKeyConnection, "the key ID does not belong to this app's keys"},
	{404, "BadPath", reactBug, ""},
	{405, "MethodNotAllowed", reactBug, ""},
	{410, "ExpiredToken", reactGone, ""},
	{410, "Unregistered", reactGone, ""},
	{413, "PayloadTooLarge", reactShorter, ""},
	{429, "TooManyProviderTokenUpdates", reactOldToken, "another sender may be using this key, or this one restarts too often"},
	{429, "TooManyRequests", reactThrottle, ""},
	{500, "InternalServerError", reactRetry, ""},
	{503, "ServiceUnavailable", reactRetry, ""},
	{503, "Shutdown", reactReconnect, ""},
}

// reactionTo looks an answer up by its reason, and failing that by its status:
// Apple adds reasons, and a proxy in between has none.
func reactionTo(status int, reason string) (reaction, string) {
	for i := range answers {
		if answers[i].status == status && answers[i].reason == reason {
			return answers[i].do, answers[i].help
		}
	}
	switch {
	case status == http.StatusGone:
		return reactGone, ""
	case status == http.StatusRequestEntityTooLarge:
		return reactShorter, ""
	case status == http.StatusTooManyRequests:
		return reactThrottle, ""
	case status == http.StatusRequestTimeout, status == http.StatusMisdirectedRequest, status == http.StatusTooEarly:
		return reactReconnect, ""
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return reactConfig, "the credentials are refused"
	case reason == "" && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed):
		return reactConfig, "the endpoint does not know Apple's path; it is not Apple's service"
	case status >= 300 && status < 400:
		return reactConfig, "the endpoint redirects; it is not Apple's service"
	case status >= 400 && status < 500:
		return reactBug, ""
	}
	return reactRetry, ""
}
