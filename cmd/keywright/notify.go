package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

// What a service manager is told (sd_notify(3)).
const (
	notifyReady    = "READY=1"
	notifyStopping = "STOPPING=1"
)

// notifier tells the service manager how far the service is, where there is one (Type=notify). The processes of PKCS#11 modules do not
// inherit its address: they have nothing to say.
type notifier struct{ address string }

func newNotifier() notifier {
	const variable = "NOTIFY_SOCKET"
	n := notifier{os.Getenv(variable)}
	if n.address != "" {
		// It fails for names that cannot be; this one can.
		_ = os.Unsetenv(variable)
	}
	return n
}

// tell sends one state. Without a service manager it does nothing.
func (n notifier) tell(ctx context.Context, state string) error {
	if n.address == "" {
		return nil
	}
	// A name that begins with @ is an abstract one, which net takes as it is (unix(7)).
	c, err := (&net.Dialer{}).DialContext(context.WithoutCancel(ctx), "unixgram", n.address)
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer func() { _ = c.Close() }() // a datagram has been sent or not
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// tell tells the service manager. That it does not hear is no reason to stop.
func (n *node) tell(ctx context.Context, state string) {
	if err := n.notify.tell(ctx, state); err != nil {
		n.log.Warn("the service manager does not hear", "state", state, "error", err)
	}
}
