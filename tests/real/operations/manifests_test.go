//go:build real

package operations_test

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

// object is a Kubernetes object, as far as these tests look at it.
type object struct {
	Kind     string
	Metadata struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Data map[string]string
	Spec struct {
		Replicas    int
		Strategy    struct{ Type string }
		Template    struct{ Spec podSpec }
		PodSelector struct{ MatchLabels map[string]string }
		PolicyTypes []string
		Ingress     []any
		// Of a PodMonitor; of a Deployment and a Service the selector has another form.
		PodMetricsEndpoints []struct{ Port, Path string }
		JobLabel            string
		AccessModes         []string
		Groups              []struct{ Rules []struct{ Alert string } }
	}
}

type podSpec struct {
	AutomountServiceAccountToken  *bool
	TerminationGracePeriodSeconds int
	HostNetwork, HostPID, HostIPC bool
	SecurityContext               map[string]any
	InitContainers                []any
	Containers                    []struct {
		Image string
		Args  []string
		Ports []struct {
			Name     string
			HostPort int
		}
		SecurityContext                             map[string]any
		LivenessProbe, ReadinessProbe, StartupProbe struct{ HTTPGet struct{ Path, Port string } }
		VolumeMounts                                []struct{ Name, MountPath string }
	}
	Volumes []volume
}

type volume struct {
	Name                  string
	ConfigMap             struct{ Name string }
	Secret                struct{ SecretName string }
	PersistentVolumeClaim struct{ ClaimName string }
}

// built is what kustomize makes of a directory, one object of each kind.
func built(t *testing.T, dir string) map[string]object {
	t.Helper()
	var objects []object
	manifests(t, "kustomize", dir, &objects)
	all := map[string]object{}
	for _, o := range objects {
		if _, twice := all[o.Kind]; twice {
			t.Errorf("%s: two objects are a %s", dir, o.Kind)
		}
		all[o.Kind] = o
	}
	return all
}

// mayDo wants the pod to ask for nothing that the Pod Security Standard "restricted" and OpenShift's profile "restricted-v2" refuse: of
// what their security contexts can say there is this and nothing else, besides the ids.
func mayDo(t *testing.T, pod *podSpec, ids map[string]any) {
	t.Helper()
	want := map[string]any{
		"runAsNonRoot": true, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}
	maps.Copy(want, ids)
	if !reflect.DeepEqual(pod.SecurityContext, want) {
		t.Errorf("the pod has the security context %v, want %v", pod.SecurityContext, want)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod gets a token of its service account")
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.InitContainers) > 0 || len(pod.Containers) != 1 {
		t.Errorf("the pod is not one container with namespaces of its own: %+v", pod)
	}
	for _, c := range pod.Containers {
		want := map[string]any{
			"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []any{"ALL"}},
		}
		if !reflect.DeepEqual(c.SecurityContext, want) {
			t.Errorf("the container has the security context %v, want %v", c.SecurityContext, want)
		}
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				t.Errorf("the container takes the port %d of its node", p.HostPort)
			}
		}
	}
	for _, v := range pod.Volumes {
		if v == (volume{Name: v.Name}) {
			t.Errorf("the volume %s is of a kind that these profiles refuse, or would hold a token", v.Name)
		}
	}
}

// The base has no ids: OpenShift gives each namespace its own, and admits no others.
func TestKubernetesBase(t *testing.T) {
	t.Parallel()
	pod := built(t, "deploy/kubernetes/base")["Deployment"].Spec.Template.Spec
	mayDo(t, &pod, nil)
	// What a volume is mounted at is open to the group that the cluster gives it.
	c := pod.Containers[0]
	data := slices.IndexFunc(c.VolumeMounts, func(m struct{ Name, MountPath string }) bool { return m.Name == "data" })
	i := slices.IndexFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--storage.path="+c.VolumeMounts[data].MountPath+"/") })
	if i < 0 {
		t.Errorf("the storage is not a directory below the volume at %s: %q", c.VolumeMounts[data].MountPath, c.Args)
	}
}

// TestKubernetes builds the example with kustomize, decodes each object strictly as its type, and looks at what types do not say.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	all := built(t, "deploy/kubernetes/example")
	for _, o := range all {
		if o.Kind != "Namespace" && o.Metadata.Namespace != "hmcnotifyd" {
			t.Errorf("the %s is in the namespace %q", o.Kind, o.Metadata.Namespace)
		}
	}
	for _, kind := range []string{"Namespace", "Deployment", "ServiceAccount", "Service", "PersistentVolumeClaim", "ConfigMap", "Secret", "NetworkPolicy", "PodMonitor", "PrometheusRule"} {
		if _, ok := all[kind]; !ok {
			t.Fatalf("there is no %s", kind)
		}
	}
	if got := all["Namespace"].Metadata.Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Errorf("the namespace enforces %q", got)
	}
	deployment := all["Deployment"].Spec
	if deployment.Replicas != 1 || deployment.Strategy.Type != "Recreate" {
		t.Errorf("%d replicas with the strategy %s: two daemons would do everything twice, and the volume is for one", deployment.Replicas, deployment.Strategy.Type)
	}
	pod := deployment.Template.Spec
	mayDo(t, &pod, map[string]any{"runAsUser": 65532., "runAsGroup": 65532., "fsGroup": 65532.}) // the image's
	if pod.TerminationGracePeriodSeconds < 20 {
		t.Errorf("the daemon has %d seconds to end, and may need 18", pod.TerminationGracePeriodSeconds)
	}
	c := pod.Containers[0]
	if c.LivenessProbe.HTTPGet.Path != "/-/healthy" || c.StartupProbe.HTTPGet.Path != "/-/healthy" || c.ReadinessProbe.HTTPGet.Path != "/-/ready" {
		t.Errorf("the probes are %+v, %+v and %+v", c.StartupProbe, c.LivenessProbe, c.ReadinessProbe)
	}
	policy := all["NetworkPolicy"].Spec
	if policy.PodSelector.MatchLabels["app.kubernetes.io/name"] != "hmcnotifyd" || !slices.Equal(policy.PolicyTypes, []string{"Ingress", "Egress"}) || len(policy.Ingress) != 1 {
		t.Errorf("the NetworkPolicy is %+v", policy)
	}
	monitor := all["PodMonitor"].Spec
	if monitor.JobLabel != "app.kubernetes.io/name" || len(monitor.PodMetricsEndpoints) != 1 || monitor.PodMetricsEndpoints[0].Port != c.Ports[0].Name || monitor.PodMetricsEndpoints[0].Path != "/metrics" {
		t.Errorf("the PodMonitor is %+v, the pod's port %+v", monitor, c.Ports)
	}
	if len(all["PrometheusRule"].Spec.Groups) < 4 {
		t.Errorf("the PrometheusRule has %d groups", len(all["PrometheusRule"].Spec.Groups))
	}

	// The pod's volumes name what there is, and the configuration is one that the daemon takes, where the pod has its files.
	source := map[string]map[string]string{}
	for _, v := range pod.Volumes {
		switch {
		case v.ConfigMap.Name != "":
			if v.ConfigMap.Name != all["ConfigMap"].Metadata.Name {
				t.Errorf("the pod wants the ConfigMap %s, there is %s", v.ConfigMap.Name, all["ConfigMap"].Metadata.Name)
			}
			source[v.Name] = all["ConfigMap"].Data
		case v.Secret.SecretName != "":
			if v.Secret.SecretName != all["Secret"].Metadata.Name {
				t.Errorf("the pod wants the Secret %s, there is %s", v.Secret.SecretName, all["Secret"].Metadata.Name)
			}
			source[v.Name] = all["Secret"].Data
		case v.PersistentVolumeClaim.ClaimName != all["PersistentVolumeClaim"].Metadata.Name:
			t.Errorf("the pod wants the volume claim %q, there is %s", v.PersistentVolumeClaim.ClaimName, all["PersistentVolumeClaim"].Metadata.Name)
		}
	}
	root := t.TempDir()
	for _, m := range c.VolumeMounts {
		for name, text := range source[m.Name] {
			writeFile(t, filepath.Join(root, m.MountPath, name), strings.ReplaceAll(text, "/run/credentials", root+"/run/credentials"))
		}
	}
	config, ok := strings.CutPrefix(c.Args[0], "--config.file=")
	if !ok {
		t.Fatalf("the arguments are %q", c.Args)
	}
	checkConfig(t, filepath.Join(root, config))
}

// TestCompose reads the compose file as docker compose does, wants what it mounts to be there, and checks each program's configuration
// as the container would see it.
func TestCompose(t *testing.T) {
	t.Parallel()
	type mount struct{ Type, Source, Target string }
	var project struct {
		Services map[string]struct {
			Build   struct{ Context, Dockerfile string }
			Image   string
			Command []string
			Ports   []struct {
				HostIP string `json:"host_ip"`
				Target int
			}
			Volumes     []mount
			Secrets     []struct{ Source, Target string }
			NetworkMode string `json:"network_mode"`
			Networks    map[string]struct{ Aliases []string }
			ReadOnly    bool     `json:"read_only"`
			CapDrop     []string `json:"cap_drop"`
		}
		Volumes map[string]any
		Secrets map[string]struct{ File string }
	}
	manifests(t, "compose", "deploy/compose/compose.yaml", &project)
	for _, name := range []string{"hmcnotifyd", "simulator", "prometheus", "alertmanager", "grafana"} {
		if project.Services[name].Image == "" {
			t.Fatalf("there is no service %s", name)
		}
	}
	if b := project.Services["hmcnotifyd"].Build; b.Context != daemon.Root(t) || b.Dockerfile != "Dockerfile" {
		t.Errorf("the image is built in %s by %s", b.Context, b.Dockerfile)
	}
	root := t.TempDir() // what the containers see, one directory for each service
	for name, service := range project.Services {
		for _, p := range service.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d is open to everybody: %q", name, p.Target, p.HostIP)
			}
		}
		if i := strings.LastIndex(service.Image, ":"); service.Image != "hmcnotifyd" && (i < 0 || service.Image[i:] == ":latest") {
			t.Errorf("%s: the image %s has no version", name, service.Image)
		}
		for _, v := range service.Volumes {
			if v.Type == "volume" {
				if _, ok := project.Volumes[v.Source]; !ok {
					t.Errorf("%s: there is no volume %s", name, v.Source)
				}
				continue
			}
			if err := copyTo(v.Source, filepath.Join(root, name, v.Target)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, s := range service.Secrets {
			if err := copyTo(project.Secrets[s.Source].File, filepath.Join(root, name, s.Target)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if t.Failed() {
		return
	}

	// A service that another one's network depends on must not be started anew by the other's mistakes.
	if got := project.Services["hmcnotifyd"].NetworkMode; got != "service:simulator" {
		t.Errorf("the daemon has the network %q", got)
	}
	names := map[string]bool{}
	for name, service := range project.Services {
		if service.Image == "hmcnotifyd" && (!service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"})) {
			t.Errorf("%s may too much", name)
		}
		if service.NetworkMode == "" {
			names[name] = true
		}
		for _, network := range service.Networks {
			for _, alias := range network.Aliases {
				names[alias] = true
			}
		}
	}
	for _, file := range []string{"deploy/compose/prometheus.yml", "deploy/grafana/provisioning/datasources/prometheus.yaml"} {
		for _, m := range regexp.MustCompile(`(?m)(?:^ +url: http://|\["|, ")([a-z]+):[0-9]+`).FindAllStringSubmatch(readFile(t, inRepository(t, file)), -1) {
			if !names[m[1]] && m[1] != "localhost" {
				t.Errorf("%s: %s is the name of nothing", file, m[1])
			}
		}
	}

	at := func(service string) string { return filepath.Join(root, service) }
	argument := func(service, flag string) string {
		for _, a := range project.Services[service].Command {
			if value, ok := strings.CutPrefix(a, flag+"="); ok {
				return filepath.Join(at(service), value)
			}
		}
		t.Fatalf("%s has no %s in its command", service, flag)
		return ""
	}
	config := argument("hmcnotifyd", "--config.file")
	writeFile(t, filepath.Join(at("hmcnotifyd"), "simulator", path.Base(argument("simulator", "--ca-out"))), string(certs.NewAuthority(t).PEM()))
	text := readFile(t, config)
	for _, dir := range []string{"/run/secrets", "/simulator"} {
		text = strings.ReplaceAll(text, " "+dir+"/", " "+at("hmcnotifyd")+dir+"/")
	}
	writeFile(t, config, text)
	checkConfig(t, config)
	promtool(t, "check", "config", argument("prometheus", "--config.file"))
	amtool(t, "check-config", argument("alertmanager", "--config.file"))

	var provider struct {
		Providers []struct{ Options struct{ Path string } }
	}
	manifests(t, "json", "deploy/grafana/provisioning/dashboards/hmcnotifyd.yaml", &provider)
	if _, err := os.Stat(filepath.Join(at("grafana"), provider.Providers[0].Options.Path, "hmcnotifyd.json")); err != nil {
		t.Errorf("Grafana does not find the dashboard: %v", err)
	}
	var sources struct {
		Datasources []struct{ Type, URL string }
	}
	manifests(t, "json", "deploy/grafana/provisioning/datasources/prometheus.yaml", &sources)
	if got := fmt.Sprint(sources.Datasources); got != "[{prometheus http://prometheus:9090}]" {
		t.Errorf("Grafana's data sources are %s", got)
	}
	if _, err := os.Stat(filepath.Join(at("grafana"), "etc/grafana/provisioning/datasources/prometheus.yaml")); err != nil {
		t.Error(err)
	}
}

func checkConfig(t *testing.T, file string) {
	t.Helper()
	if text, status := daemon.Run(t, within, "check-config", file); status != 0 {
		t.Errorf("check-config: exit status %d\n%s", status, text)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyTo copies a file or a directory.
func copyTo(from, to string) error {
	stat, err := os.Stat(from)
	if err != nil {
		return err
	}
	if stat.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}
