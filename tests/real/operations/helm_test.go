//go:build real

package operations_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

// helm renders the chart with values, which are JSON, as `helm template hmcnotifyd` does after `helm lint`.
func helm(t *testing.T, values any) (text string, status int) {
	t.Helper()
	data, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	writeFile(t, file, string(data))
	return runManifests(t, "helm", inRepository(t, "deploy/helm/hmcnotifyd"), file)
}

// charted is what the chart makes of values, one object of each kind.
func charted[T any](t *testing.T, values any, kind func(T) string) map[string]T {
	t.Helper()
	text, status := helm(t, values)
	var objects []T
	if status != 0 {
		t.Fatal(text)
	} else if err := json.Unmarshal([]byte(text), &objects); err != nil {
		t.Fatal(err)
	}
	all := map[string]T{}
	for _, o := range objects {
		all[kind(o)] = o
	}
	if len(all) != len(objects) {
		t.Errorf("%d objects of %d kinds", len(objects), len(all))
	}
	return all
}

type tree = map[string]any

// at goes down a tree, to a tree.
func at(t *testing.T, v tree, path ...string) tree {
	t.Helper()
	for _, name := range path {
		next, ok := v[name].(tree)
		if !ok {
			t.Fatalf("there is no %s in %v", name, v)
		}
		v = next
	}
	return v
}

// TestHelm wants the chart to make of its values what kustomize makes of the example, but for what tells releases of the chart
// from one another.
func TestHelm(t *testing.T) {
	t.Parallel()
	dir := inRepository(t, "deploy/kubernetes/example")
	read := func(name string) string { return readFile(t, filepath.Join(dir, name)) }
	kind := func(o tree) string { return o["kind"].(string) }
	got := charted(t, tree{
		"config": read("hmcnotifyd.yaml"), "files": tree{"hmc-ca.pem": read("hmc-ca.pem")},
		"credentials": tree{"hmc-east": read("hmc-east.password")}, "monitoring": tree{"enabled": true},
	}, kind)
	var objects []tree
	manifests(t, "kustomize", "deploy/kubernetes/example", &objects)
	want := map[string]tree{}
	for _, o := range objects {
		want[kind(o)] = o
	}
	delete(want, "Namespace") // helm's --create-namespace

	for _, o := range got {
		m := at(t, o, "metadata")
		if labels := at(t, m, "labels"); labels["helm.sh/chart"] == nil || labels["app.kubernetes.io/managed-by"] != "Helm" {
			t.Errorf("the %s has the labels %v", kind(o), labels)
		}
		m["labels"] = tree{"app.kubernetes.io/name": "hmcnotifyd"}
	}
	// Who is selected has the name of the release too.
	for name, path := range map[string][]string{
		"Deployment": {"spec", "selector", "matchLabels"}, "PodMonitor": {"spec", "selector", "matchLabels"},
		"NetworkPolicy": {"spec", "podSelector", "matchLabels"}, "Service": {"spec", "selector"},
	} {
		selector := at(t, got[name], path...)
		labels := at(t, got["Deployment"], "spec", "template", "metadata", "labels")
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("the %s selects %v, the pod has %v", name, selector, labels)
			}
		}
		if selector["app.kubernetes.io/instance"] != "hmcnotifyd" {
			t.Errorf("the %s selects the pods of all releases: %v", name, selector)
		}
		delete(selector, "app.kubernetes.io/instance")
	}
	at(t, got["Deployment"], "spec", "template", "metadata")["labels"] = tree{"app.kubernetes.io/name": "hmcnotifyd"}
	delete(at(t, got["Deployment"], "spec", "template", "metadata", "annotations"), "checksum/config")
	delete(at(t, got["Deployment"], "spec", "template", "spec")["containers"].([]any)[0].(tree), "imagePullPolicy")
	if m := at(t, got["PersistentVolumeClaim"], "metadata"); at(t, m, "annotations")["helm.sh/resource-policy"] != "keep" {
		t.Error("removing the release removes what is stored")
	} else {
		delete(m, "annotations")
	}
	// kustomize gives these names after their contents.
	for _, name := range []string{"ConfigMap", "Secret"} {
		at(t, want[name], "metadata")["name"] = "hmcnotifyd"
		delete(at(t, want[name], "metadata"), "labels")
		delete(at(t, got[name], "metadata"), "labels")
	}
	delete(want["Secret"], "type")
	for _, v := range at(t, want["Deployment"], "spec", "template", "spec")["volumes"].([]any) {
		if m, ok := v.(tree)["configMap"].(tree); ok {
			m["name"] = "hmcnotifyd"
		}
		if m, ok := v.(tree)["secret"].(tree); ok {
			m["secretName"] = "hmcnotifyd"
		}
	}
	if a, b := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(a, b) {
		t.Errorf("helm makes %q, kustomize %q", a, b)
	}
	for name := range want {
		if !reflect.DeepEqual(got[name], want[name]) {
			t.Errorf("helm makes of the %s\n%v\nkustomize\n%v", name, got[name], want[name])
		}
	}
}

// TestHelmValues looks at what the values change.
func TestHelmValues(t *testing.T) {
	t.Parallel()
	kind := func(o object) string { return o.Kind }
	simple := charted(t, tree{"config": "hmcs: []\n"}, kind)
	if text := simple["ConfigMap"].Data["hmcnotifyd.yaml"]; text != "hmcs: []\n" {
		t.Errorf("the configuration is %q", text)
	}
	all := charted(t, tree{
		"config": tree{"sinks": []any{}}, "existingSecret": "vault", "openshift": true, "args": []any{"--log.level=debug"},
		"env": []any{tree{"name": "GOMEMLIMIT", "value": "900MiB"}}, "resources": tree{"limits": tree{"memory": "1Gi"}},
		"image":   tree{"repository": "r.example.com/h", "tag": "9"},
		"storage": tree{"existingClaim": "mine"}, "networkPolicy": tree{"enabled": false},
	}, kind)
	for _, name := range []string{"Secret", "PersistentVolumeClaim", "NetworkPolicy", "PodMonitor"} {
		if _, ok := all[name]; ok {
			t.Errorf("there is a %s", name)
		}
	}
	pod := all["Deployment"].Spec.Template.Spec
	mayDo(t, &pod, nil)
	c := pod.Containers[0]
	if c.Image != "r.example.com/h:9" || c.Args[len(c.Args)-1] != "--log.level=debug" || len(c.Args) != 3 {
		t.Errorf("%+v", c)
	}
	for _, v := range pod.Volumes {
		if v.Secret.SecretName != "" && v.Secret.SecretName != "vault" || v.PersistentVolumeClaim.ClaimName != "" && v.PersistentVolumeClaim.ClaimName != "mine" {
			t.Errorf("%+v", v)
		}
	}
	text, _ := helm(t, tree{"config": "x", "env": []any{tree{"name": "GOMEMLIMIT", "value": "900MiB"}}, "resources": tree{"limits": tree{"memory": "1Gi"}}})
	if strings.Contains(text, "400MiB") || strings.Contains(text, "512Mi") || !strings.Contains(text, "900MiB") || !strings.Contains(text, "1Gi") {
		t.Errorf("limits of memory:\n%s", text)
	}

	for want, values := range map[string]tree{
		"hmcnotifyd.yaml is missing":                {},
		"config and existingConfigMap: one of them": {"config": "x", "existingConfigMap": "y"},
		"credentials and existingSecret: one of":    {"config": "x", "existingSecret": "y", "credentials": tree{"a": "b"}},
		"replicaCount":                              {"config": "x", "replicaCount": 2},
	} {
		if text, status := helm(t, values); status == 0 || !strings.Contains(text, want) {
			t.Errorf("%v: exit status %d, and not %q\n%s", values, status, want, text)
		}
	}
	if version := strings.TrimSpace(readFile(t, filepath.Join(daemon.Root(t), "VERSION"))); !strings.Contains(readFile(t, inRepository(t, "deploy/helm/hmcnotifyd/Chart.yaml")), "\nversion: "+version+"\nappVersion: "+version+"\n") {
		t.Errorf("Chart.yaml is not of version %s", version)
	}
}
