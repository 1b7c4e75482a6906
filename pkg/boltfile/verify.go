package boltfile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// bbolt trusts its files. On a damaged one it panics, follows a page to itself until the stack
// ends, or lists billions of free pages: things that no recover helps against. So a file that was
// not made by this process is checked before bbolt sees it: every page of the tree lies within the
// file, is of the right kind, is used once, and its elements lie within it in order. What the
// values say is not looked at here, that is what the checksums of the blocks are for.
//
// The layout is that of bbolt's file format version 2 (native byte order).
const (
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	boltNoFreelist  = ^uint64(0)
	boltPageHeader  = 16
	boltElementSize = 16
	boltMetaSize    = 64

	boltBranchPage   = 0x01
	boltLeafPage     = 0x02
	boltFreelistPage = 0x10

	boltBucketLeaf = 0x01
)

// native is the byte order of bbolt's pages.
var native = binary.NativeEndian

type boltMeta struct {
	Magic, Version, PageSize, Flags uint32

	Root, Sequence, Freelist, Pages, Txid, Checksum uint64
}

type checker struct {
	file *os.File
	meta boltMeta
	// one bit per page
	seen []uint64
	// Both meta pages are whole.
	clean bool
	// Bytes of pages that need to be read whole.
	budget int
}

// Verify checks the structure of the bbolt file at path, the list of free pages included. It
// returns whether both meta pages were whole: if not, the last transaction of the file may be
// missing.
func Verify(path string) (clean bool, err error) {
	file, err := datadir.Open(path, os.O_RDONLY)
	if err != nil {
		return false, datadir.Classify(path, err)
	}
	defer func() { _ = file.Close() }() // only read
	c := &checker{file: file, budget: 1 << 30}
	adviseWillNeed(file) // about to be read as a whole, and bbolt's mapping has no read-ahead
	if err := c.run(); err != nil {
		return false, datadir.Classify(path, err)
	}
	return c.clean, nil
}

func (c *checker) run() error {
	stat, err := c.file.Stat()
	if err != nil {
		return err
	}
	if err := c.readMeta(); err != nil {
		return err
	}
	if c.meta.Pages < 4 || c.meta.Pages > uint64(stat.Size())/PageSize {
		return fmt.Errorf("%d pages in use, the file has %d bytes", c.meta.Pages, stat.Size())
	}
	c.seen = make([]uint64, c.meta.Pages/64+1)
	c.mark(0)
	c.mark(1)
	if err := c.tree(c.meta.Root, 0, 0); err != nil {
		return err
	}
	if c.meta.Freelist != boltNoFreelist {
		return c.freelist()
	}
	return nil
}

func (c *checker) readMeta() error {
	whole := 0
	page := make([]byte, PageSize)
	for id := range uint64(2) {
		if err := c.read(id, page); err != nil {
			return err
		}
		b, m, h := page[boltPageHeader:], boltMeta{}, fnv.New64a()
		_, _ = h.Write(b[:boltMetaSize-8]) // a hash does not fail
		if _, err := binary.Decode(b, native, &m); err != nil {
			return err
		}
		if m.Magic != boltMagic || m.Version != boltVersion || m.PageSize != PageSize || m.Checksum != h.Sum64() {
			continue
		}
		if whole++; whole == 1 || m.Txid > c.meta.Txid {
			c.meta = m
		}
	}
	if whole == 0 {
		return errors.New("both meta pages are invalid")
	}
	c.clean = whole == 2
	return nil
}

// read reads a page, and the pages that overflow from it.
func (c *checker) read(id uint64, buf []byte) error {
	_, err := c.file.ReadAt(buf, int64(id)*PageSize)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("page %d is cut off", id)
	}
	return err
}

// mark notes that a page is in use; false if it was already.
func (c *checker) mark(id uint64) bool {
	bit := uint64(1) << (id % 64)
	used := c.seen[id/64]&bit != 0
	c.seen[id/64] |= bit
	return !used
}

// boltPage is a page of the tree, with what overflows from it. content may be shorter than size
// where the rest is one value.
type boltPage struct {
	content []byte
	flags   uint16
	count   int
	size    int
}

func parseHeader(b []byte) boltPage {
	return boltPage{content: b, flags: native.Uint16(b[8:]), count: int(native.Uint16(b[10:])), size: len(b)}
}

// claim reads a page and marks it and what overflows from it. The content is the first page, or
// everything if it has more than one element.
func (c *checker) claim(id uint64) (p boltPage, err error) {
	if id < 2 || id >= c.meta.Pages {
		return p, fmt.Errorf("page %d is out of range", id)
	}
	content := make([]byte, PageSize)
	if err := c.read(id, content); err != nil {
		return p, err
	}
	p = parseHeader(content)
	overflow := uint64(native.Uint32(p.content[12:]))
	if got := native.Uint64(p.content); got != id {
		return p, fmt.Errorf("page %d says it is page %d", id, got)
	}
	if overflow >= c.meta.Pages-id {
		return p, fmt.Errorf("page %d reaches beyond the end", id)
	}
	for i := range overflow + 1 {
		if !c.mark(id + i) {
			return p, fmt.Errorf("page %d is used twice", id+i)
		}
	}
	p.size = int(overflow+1) * PageSize
	if p.size == PageSize || (p.count <= 1 && p.flags == boltLeafPage) {
		return p, nil
	}
	if c.budget -= p.size; c.budget < 0 {
		return p, errors.New("too many large pages")
	}
	p.content = make([]byte, p.size)
	return p, c.read(id, p.content)
}

const maxBoltDepth = 32

// tree checks a page and all that is below it, in buckets within buckets too.
func (c *checker) tree(id uint64, depth, nesting int) error {
	if depth > maxBoltDepth || nesting > maxBoltDepth {
		return errors.New("tree is too deep")
	}
	p, err := c.claim(id)
	if err != nil {
		return err
	}
	below, err := p.check()
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	depth++
	if p.flags == boltLeafPage {
		depth, nesting = 0, nesting+1
	}
	for _, id := range below {
		if err := c.tree(id, depth, nesting); err != nil {
			return err
		}
	}
	return nil
}

// check checks the elements of a page, and returns the pages that they name.
func (p *boltPage) check() (below []uint64, err error) {
	branch := p.flags == boltBranchPage
	if (!branch && p.flags != boltLeafPage) || (branch && p.count == 0) {
		return nil, fmt.Errorf("it is of kind %#x with %d elements", p.flags, p.count)
	}
	var last []byte
	for i := range p.count {
		at := boltPageHeader + i*boltElementSize
		if at+boltElementSize > len(p.content) {
			return nil, fmt.Errorf("element %d is cut off", i)
		}
		e := p.content[at:]
		flags, pos, ksize, vsize := native.Uint32(e), native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		if branch {
			flags, pos, ksize, vsize = 0, flags, pos, 0
		}
		keyAt := uint64(at) + uint64(pos)
		valueAt := keyAt + uint64(ksize)
		end := valueAt + uint64(vsize)
		if ksize == 0 || valueAt > uint64(len(p.content)) || end > uint64(p.size) || flags > boltBucketLeaf {
			return nil, fmt.Errorf("element %d is invalid", i)
		}
		key := p.content[keyAt:valueAt]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return nil, fmt.Errorf("element %d is out of order", i)
		}
		last = key
		if branch {
			below = append(below, native.Uint64(e[8:]))
			continue
		}
		if flags != boltBucketLeaf {
			continue
		}
		if end > uint64(len(p.content)) || vsize < 16 {
			return nil, fmt.Errorf("bucket of element %d is cut off", i)
		}
		value := p.content[valueAt:end]
		if root := native.Uint64(value); root != 0 {
			below = append(below, root)
			continue
		}
		if len(value) < 16+boltPageHeader {
			return nil, fmt.Errorf("inline bucket of element %d is cut off", i)
		}
		inline := parseHeader(value[16:])
		if inner, err := inline.check(); err != nil || inline.flags != boltLeafPage || len(inner) > 0 {
			err = cmp.Or(err, errors.New("it is no leaf without buckets"))
			return nil, fmt.Errorf("inline bucket of element %d is invalid: %w", i, err)
		}
	}
	return below, nil
}

// freelist checks the list of free pages: sorted, within the file, and none of them in use.
func (c *checker) freelist() error {
	p, err := c.claim(c.meta.Freelist)
	if err != nil {
		return err
	}
	if p.flags != boltFreelistPage {
		return fmt.Errorf("page %d is no list of free pages", c.meta.Freelist)
	}
	ids, n := p.content[boltPageHeader:], uint64(p.count)
	if n == 0xFFFF {
		n = native.Uint64(ids)
		ids = ids[8:]
	}
	if n > uint64(p.size)/8 || n*8 > uint64(len(ids)) {
		return errors.New("list of free pages is cut off")
	}
	for i := range n {
		if id := native.Uint64(ids[i*8:]); id < 2 || id >= c.meta.Pages || !c.mark(id) {
			return fmt.Errorf("free page %d is out of range or in use", id)
		}
	}
	return nil
}
