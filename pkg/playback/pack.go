package playback

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"io"
)

// packed is a body that is kept compressed: what an HMC says compresses well.
type packed struct {
	size int
	data []byte
}

func (p packed) bytes() []byte {
	if p.size == 0 {
		return nil
	}
	body := make([]byte, p.size)
	_, _ = io.ReadFull(flate.NewReader(bytes.NewReader(p.data)), body) // it was made below
	return body
}

// packer compresses bodies. Equal ones are kept once.
type packer struct {
	made map[[sha256.Size]byte]packed
	out  bytes.Buffer
	zip  *flate.Writer
}

// pack returns a body that is kept, and how many bytes that takes more.
func (p *packer) pack(body []byte) (made packed, more int) {
	if len(body) == 0 {
		return packed{}, 0
	}
	sum := sha256.Sum256(body)
	if same, ok := p.made[sum]; ok {
		return same, 0
	}
	if p.zip == nil {
		p.made = make(map[[sha256.Size]byte]packed)
		p.zip, _ = flate.NewWriter(nil, flate.BestSpeed) // that level exists
	}
	p.out.Reset()
	p.zip.Reset(&p.out)
	_, _ = p.zip.Write(body) // a buffer takes all
	_ = p.zip.Close()
	made = packed{len(body), bytes.Clone(p.out.Bytes())}
	p.made[sum] = made
	return made, len(made.data)
}
