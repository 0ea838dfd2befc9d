package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/simkit"
)

// simulators are the stand-ins for every notification server, with one control API:
// /apns/, /fcm/ and /webpush/ lead to those of each.
type simulators struct {
	apns    *apnssim.Server
	fcm     *fcmsim.Server
	webpush *webpushsim.Server
	control *http.Server
	address string // of the control API
	wg      sync.WaitGroup

	ca, apnsKey, account, webpushKey string // files
}

// simulatorAddresses are where they listen; "" is any free port of loopback.
type simulatorAddresses struct{ apns, fcm, webpush, control string }

// startSimulators writes the credentials of a server into dir, and serves until close.
func startSimulators(at simulatorAddresses, dir string) (_ *simulators, err error) {
	s := &simulators{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.apns, err = apnssim.Start(apnssim.Options{Address: at.apns, ControlAddress: "off"}); err != nil {
		return nil, err
	}
	if s.fcm, err = fcmsim.Start(fcmsim.Options{Address: at.fcm, ControlAddress: "off"}); err != nil {
		return nil, err
	}
	if s.webpush, err = webpushsim.Start(webpushsim.Options{Address: at.webpush, ControlAddress: "off"}); err != nil {
		return nil, err
	}
	if err := s.write(dir); err != nil {
		return nil, err
	}
	control := at.control
	if control == "" {
		control = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", control)
	if err != nil {
		return nil, fmt.Errorf("listen for control: %w", err)
	}
	s.address = ln.Addr().String()
	mux := http.NewServeMux()
	for path, h := range map[string]http.Handler{"/apns": s.apns.Control(), "/fcm": s.fcm.Control(), "/webpush": s.webpush.Control()} {
		mux.Handle(path+"/", http.StripPrefix(path, h))
	}
	s.control = &http.Server{Handler: simkit.Guard(mux), ReadHeaderTimeout: 10 * time.Second}
	s.wg.Go(func() { _ = s.control.Serve(ln) }) // ends with close
	return s, nil
}

// write puts what a server needs into dir.
func (s *simulators) write(dir string) error {
	s.ca = filepath.Join(dir, "ca.pem")
	s.apnsKey = filepath.Join(dir, "AuthKey_"+s.apns.Key().KeyID+".p8")
	s.account = filepath.Join(dir, "service-account.json")
	s.webpushKey = filepath.Join(dir, "webpush.pem")
	key, err := credentials.GenerateVAPIDKey()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	cas := append(append(s.apns.CAPEM(), s.fcm.CAPEM()...), s.webpush.CAPEM()...)
	for file, content := range map[string][]byte{s.ca: cas, s.apnsKey: s.apns.Key().PEM, s.account: s.fcm.ServiceAccount(), s.webpushKey: key} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return fmt.Errorf("write the simulators' credentials: %w", err)
		}
	}
	return nil
}

// simulatedTopic is that of tokens that name none.
const simulatedTopic = "com.example.app"

// settings are the keys of a server that pushes to the simulators.
func (s *simulators) settings() map[string]string {
	return map[string]string{
		"fallback.apns.enabled": "true", "fallback.apns.endpoint": s.apns.URL(), "fallback.apns.ca_file": s.ca,
		"fallback.apns.key_file": s.apnsKey, "fallback.apns.key_id": s.apns.Key().KeyID, "fallback.apns.team_id": s.apns.Key().TeamID,
		"fallback.apns.topic":  simulatedTopic,
		"fallback.fcm.enabled": "true", "fallback.fcm.endpoint": s.fcm.URL(), "fallback.fcm.ca_file": s.ca, "fallback.fcm.service_account_file": s.account,
		"fallback.webpush.enabled": "true", "fallback.webpush.ca_file": s.ca, "fallback.webpush.key_file": s.webpushKey,
		"fallback.webpush.contact": "mailto:ops@example.com", "fallback.webpush.allow_private": `["127.0.0.0/8","::1/128"]`,
	}
}

// close stops the simulators that were started.
func (s *simulators) close() error {
	var errs []error
	if s.control != nil {
		errs = append(errs, s.control.Close())
		s.wg.Wait()
	}
	if s.webpush != nil {
		errs = append(errs, s.webpush.Close())
	}
	if s.fcm != nil {
		errs = append(errs, s.fcm.Close())
	}
	if s.apns != nil {
		errs = append(errs, s.apns.Close())
	}
	return errors.Join(errs...)
}

func (p *program) pushSimCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "push-sim", Short: "Run stand-ins for Apple's, Google's and the browsers' push services", GroupID: groupServer,
		Long: `Runs a server for each of APNs, FCM and Web Push that checks and answers pushes as
Apple, Google and the browser vendors document it, until it is interrupted. Their CA,
keys and service account are generated at each start and written into --cert-dir; the
lines it prints are what a server needs in its configuration.

One control API says how they misbehave and lists the pushes they received: below
/apns/, /fcm/ and /webpush/ are POST scripts, GET received, GET shown?token= and
GET wait?n=1. POST /webpush/subscriptions makes a browser's subscription.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	var at simulatorAddresses
	f.StringVar(&at.apns, "apns", "127.0.0.1:2197", "`host:port` for APNs")
	f.StringVar(&at.fcm, "fcm", "127.0.0.1:2199", "`host:port` for FCM")
	f.StringVar(&at.webpush, "webpush", "127.0.0.1:2200", "`host:port` for Web Push")
	f.StringVar(&at.control, "control", "127.0.0.1:2198", "`host:port` for the control API")
	certDir := f.String("cert-dir", "", "`directory` for the credentials; a throw-away one by default")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) (err error) {
		dir := *certDir
		if dir == "" {
			if dir, err = os.MkdirTemp("", "heartline-push-sim-"); err != nil {
				return fmt.Errorf("make the throw-away directory: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		} else if err := os.MkdirAll(dir, 0o755); err != nil {
			return usageError{fmt.Errorf("--cert-dir: %w", err)}
		}
		s, err := startSimulators(at, dir)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: choose other addresses with --apns, --fcm, --webpush or --control", err)
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		fmt.Fprintf(p.Stdout, `# For the configuration of a server:
fallback:
  apns:
    enabled: true
    endpoint: %s
    ca_file: %s
    key_file: %s
    key_id: %s
    team_id: %s
    topic: %[10]s
  fcm:
    enabled: true
    endpoint: %[6]s
    ca_file: %[2]s
    service_account_file: %[7]s
  webpush:
    enabled: true
    key_file: %[8]s
    contact: mailto:ops@example.com
    allow_private: [127.0.0.0/8, "::1/128"]
    ca_file: %[2]s
# Control API: http://%[9]s
`, s.apns.URL(), s.ca, s.apnsKey, s.apns.Key().KeyID, s.apns.Key().TeamID, s.fcm.URL(), s.account, s.webpushKey, s.address, simulatedTopic)
		<-ctx.Done()
		return nil
	})
	return cmd
}
