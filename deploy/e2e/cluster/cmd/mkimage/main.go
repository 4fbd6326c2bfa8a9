// Command mkimage packs files into an OCI image archive that `ctr images
// import` takes, with no registry and no base image: each -add puts one file
// in a layer of its own making, each -layer takes a ready layer tar (for
// example a debootstrap tree) as it is.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"log"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
)

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func main() {
	log.SetFlags(0)
	var add, links, layers, entry, env list
	out := flag.String("o", "", "archive to write")
	ref := flag.String("ref", "", "image reference, as localhost/pause:1")
	user := flag.String("user", "", "user of the image's processes, as 65532:65532")
	workdir := flag.String("workdir", "", "working directory")
	flag.Var(&add, "add", "SRC:DST file to add, mode 0755 (repeatable)")
	flag.Var(&links, "link", "TARGET:DST symbolic link to add (repeatable)")
	flag.Var(&layers, "layer", "uncompressed layer tar to take as it is (repeatable)")
	flag.Var(&entry, "entrypoint", "one word of the entry point (repeatable)")
	flag.Var(&env, "env", "NAME=VALUE (repeatable)")
	flag.Parse()
	if *out == "" || *ref == "" {
		log.Fatal("mkimage: -o and -ref are needed")
	}

	f, err := os.Create(*out + ".tmp")
	check(err)
	w := tar.NewWriter(f)

	var diffs []string
	var layerDescs []descriptor
	addLayer := func(d descriptor) {
		diffs = append(diffs, d.Digest)
		layerDescs = append(layerDescs, d)
	}
	const layerType = "application/vnd.oci.image.layer.v1.tar"
	for _, l := range layers {
		addLayer(blobFile(w, layerType, l))
	}
	if len(add) > 0 {
		addLayer(blob(w, layerType, layerOf(add, links)))
	}
	config := blobJSON(w, "application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"User": *user, "Env": env, "Entrypoint": entry, "WorkingDir": *workdir},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	manifest := blobJSON(w, "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": layerDescs,
	})
	manifest.Annotations = map[string]string{
		"io.containerd.image.name":          *ref,
		"org.opencontainers.image.ref.name": (*ref)[strings.LastIndexByte(*ref, ':')+1:],
	}
	file(w, "index.json", mustJSON(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}))
	file(w, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	check(w.Close())
	check(f.Close())
	check(os.Rename(*out+".tmp", *out))
}

// layerOf is a layer tar with the given files and links and the directories above them.
func layerOf(add, links []string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	seen := map[string]bool{}
	var mkdir func(string)
	mkdir = func(d string) {
		if d == "." || d == "/" || seen[d] {
			return
		}
		mkdir(path.Dir(d))
		seen[d] = true
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755, ModTime: time.Unix(0, 0)}))
	}
	for _, a := range add {
		src, dst, ok := strings.Cut(a, ":")
		if !ok {
			log.Fatalf("mkimage: -add %s: want SRC:DST", a)
		}
		data, err := os.ReadFile(src)
		check(err)
		dst = strings.TrimPrefix(path.Clean(dst), "/")
		mkdir(path.Dir(dst))
		check(w.WriteHeader(&tar.Header{Name: dst, Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(0, 0)}))
		_, err = w.Write(data)
		check(err)
	}
	for _, l := range links {
		target, dst, ok := strings.Cut(l, ":")
		if !ok {
			log.Fatalf("mkimage: -link %s: want TARGET:DST", l)
		}
		dst = strings.TrimPrefix(path.Clean(dst), "/")
		mkdir(path.Dir(dst))
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: dst, Linkname: target, Mode: 0o777, ModTime: time.Unix(0, 0)}))
	}
	check(w.Close())
	return b.Bytes()
}

func blob(w *tar.Writer, mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}
	file(w, "blobs/sha256/"+hex.EncodeToString(sum[:]), data)
	return d
}

func blobJSON(w *tar.Writer, mediaType string, v any) descriptor {
	return blob(w, mediaType, mustJSON(v))
}

// blobFile streams a file into the archive: a root file system need not fit in memory.
func blobFile(w *tar.Writer, mediaType, name string) descriptor {
	f, err := os.Open(name)
	check(err)
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	check(err)
	_, err = f.Seek(0, io.SeekStart)
	check(err)
	sum := hex.EncodeToString(h.Sum(nil))
	check(w.WriteHeader(&tar.Header{Name: "blobs/sha256/" + sum, Mode: 0o644, Size: n}))
	_, err = io.Copy(w, f)
	check(err)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: n}
}

func file(w *tar.Writer, name string, data []byte) {
	check(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}))
	_, err := w.Write(data)
	check(err)
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	check(err)
	return b
}

func check(err error) {
	if err != nil {
		log.Fatal("mkimage: ", err)
	}
}
