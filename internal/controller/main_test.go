package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/kube"
)

// asController is the variable with which the test binary is a controller: one that can be killed.
const asController = "KUBEPKI_TEST_CONTROLLER"

func TestMain(m *testing.M) {
	if file := os.Getenv(asController); file != "" {
		if err := beController(file, os.Getenv(asController+"_KUBECONFIG")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func beController(configFile, kubeconfig string) error {
	data, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	c, err := config.Load(data)
	if err != nil {
		return err
	}
	if data, err = os.ReadFile(kubeconfig); err != nil {
		return err
	}
	access, err := kube.RESTConfig(data, kube.Options{})
	if err != nil {
		return err
	}
	return controller.Run(context.Background(), access, c, controller.Options{
		Now: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), ReadFile: os.ReadFile,
		MetricsAddress: "0", HealthAddress: "0", LeaderElection: true, LeaderNamespace: "kube-system",
	})
}
