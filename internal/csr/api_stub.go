package csr

import (
	"errors"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type Request struct{}
type World struct{}
type Decider struct{}
type Kind struct {
	schema.GroupVersionResource
	Kind, Namespace, Name, LabelSelector string
	Optional                             bool
}

func Kinds(p Policy) []Kind                                           { return nil }
func Parse(request []byte) (*Request, error)                          { return nil, errors.New("stub") }
func NewWorld(p Policy) *World                                        { return &World{} }
func (w *World) Add(object any) ([]string, error)                     { return nil, nil }
func (w *World) Remove(object any) []string                           { return nil }
func (w *World) PendingFor(node string) []string                      { return nil }
func (w *World) Pending() []string                                    { return nil }
func (w *World) AddInventory(source string, e []InventoryEntry) error { return nil }
func ReadObjects(data []byte) ([]runtime.Object, error)               { return nil, nil }
func ReadInventory(data []byte) ([]InventoryEntry, error)             { return nil, nil }
func CheckInventory(e []InventoryEntry) (int, error)                  { return 0, nil }
func NewDecider(p Policy) (*Decider, error)                           { return &Decider{}, nil }
func dnsName(s string) (string, error)                                { return s, nil }
func (d *Decider) Decide(r *certificatesv1.CertificateSigningRequest, w *World, o Observations, now time.Time) Decision {
	return Decision{Verdict: Wait}
}
