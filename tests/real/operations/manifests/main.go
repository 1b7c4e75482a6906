// Command manifests reads the deployment examples as the programs do that they are for, and prints them as JSON for the tests.
// It is a module of its own, so that nothing it needs gets into the program's list of modules.
//
//	manifests kustomize DIR   what kustomize makes of a directory, each object decoded strictly as its type
//	manifests compose FILE    a compose file as docker compose understands it
//	manifests helm CHART FILE what helm makes of a chart with the values of a file, each object decoded strictly as its type
//	manifests json FILE       any YAML file
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/releaseutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	log.SetOutput(io.Discard) // helm tells of each symbolic link
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 || len(args) > 2 && args[0] != "helm" {
		return errors.New("usage: manifests kustomize DIR | compose FILE | helm CHART FILE | json FILE")
	}
	var out any
	var err error
	switch args[0] {
	case "kustomize":
		out, err = build(args[1])
	case "compose":
		out, err = compose(args[1])
	case "helm":
		out, err = render(args[1], args[2:]...)
	case "json":
		var data []byte
		if data, err = os.ReadFile(args[1]); err == nil {
			err = yaml.UnmarshalStrict(data, &out)
		}
	default:
		err = fmt.Errorf("unknown command %q", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// build is `kustomize build`, and each object as its Go type has it.
func build(dir string) ([]runtime.Object, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return decode(texts)
}

// render is `helm lint --strict` and `helm template hmcnotifyd --namespace hmcnotifyd`, and each object as its Go type has it.
func render(path string, files ...string) ([]runtime.Object, error) {
	given := map[string]any{}
	for _, file := range files {
		values, err := chartutil.ReadValuesFile(file)
		if err != nil {
			return nil, err
		}
		maps.Copy(given, values)
	}
	for _, m := range lint.AllWithKubeVersion(path, given, "hmcnotifyd", nil).Messages {
		if m.Severity > support.InfoSev {
			return nil, m
		}
	}
	chart, err := loader.Load(path)
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "hmcnotifyd", Namespace: "hmcnotifyd", Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(chart, given, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Engine{Strict: true}.Render(chart, values)
	if err != nil {
		return nil, err
	}
	var texts []string
	for name, text := range rendered {
		if filepath.Ext(name) == ".yaml" {
			texts = slices.AppendSeq(texts, maps.Values(releaseutil.SplitManifests(text)))
		}
	}
	return decode(texts)
}

// decode reads objects as their Go types have them: an unknown or doubled field is an error.
func decode(texts []string) ([]runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	strict := serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme, scheme, serializer.SerializerOptions{Yaml: true, Strict: true})
	var objects []runtime.Object
	for _, text := range texts {
		object, _, err := strict.Decode([]byte(text), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, text)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// compose reads a compose file with the library and the schema of docker compose.
func compose(file string) (any, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(filepath.Dir(file)), cli.WithResolvedPaths(true))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}
