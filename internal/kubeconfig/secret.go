package kubeconfig

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is key material. Every fmt verb, JSON, slog and text encoders show "[redacted]";
// convert it to []byte to use it. (Not so %p of a struct around it, for which fmt asks no
// methods; go vet reports that misuse.)
type Secret []byte

// Format implements fmt.Formatter.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which encoding/json uses as well.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
