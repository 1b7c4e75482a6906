package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime/debug"
	"slices"
)

// bbolt trusts its files. On a damaged one it panics, follows a page to itself until the stack ends, or lists billions of
// free pages: things that no recover helps against. So a file that was not made by this process is checked before bbolt sees it:
// every page of the tree lies within the file, is of the right kind, is used once, and its elements lie within it in order.
// What the values say is not looked at here, that is what the checksums of the blocks are for.
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

// pageSize is fixed, so that a file does not depend on the machine's page size, which is 64 KiB on some: every transaction
// writes a handful of pages however small it is.
const pageSize = 4096

// damageError says that a file's content is not what was written.
type damageError struct {
	path string
	err  error
	// stuck says that bbolt has panicked and may hold its locks for good: the handle must not even be closed, or this waits for
	// ever. It is left to the end of the process, with its descriptor and mapping.
	stuck bool
}

func (e *damageError) Error() string { return e.path + " is damaged: " + e.err.Error() }
func (e *damageError) Unwrap() error { return e.err }

// isDamage tells damage of the file from an error of the system, which may pass.
func isDamage(err error) bool {
	var d *damageError
	return errors.As(err, &d)
}

// isStuck tells that bbolt's handle must not be used again, nor closed.
func isStuck(err error) bool {
	var d *damageError
	return errors.As(err, &d) && d.stuck
}

// guard runs fn, which uses bbolt on the file at path, and turns a panic, also that of a memory fault in a mapped file that has
// become shorter, into a damageError.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damageError{path: path, err: fmt.Errorf("panic: %v", p), stuck: true}
		}
	}()
	return fn()
}

type boltMeta struct {
	root, freelist, pages, txid uint64
}

type checker struct {
	file   *os.File
	meta   boltMeta
	seen   []uint64 // one bit per page
	clean  bool     // both meta pages are whole
	only   string   // when set, of the buckets in the root only this one is looked into
	page   [pageSize]byte
	budget int // bytes of pages that need to be read whole
}

// verifyFile checks the structure of the bbolt file at path. With only set it looks into that one bucket of the root, which is quick.
// Else it looks at everything, the list of free pages included. It returns whether both meta pages were whole: if not, the last
// transaction of the file may be missing.
func verifyFile(path, only string) (clean bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return false, boltError(path, err)
	}
	defer func() { _ = file.Close() }() // only read
	c := &checker{file: file, only: only, budget: 1 << 30}
	if only == "" {
		adviseWillNeed(file) // about to be read as a whole, and bbolt's mapping has no read-ahead
	}
	if err := c.run(); err != nil {
		return false, boltError(path, err)
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
	if c.meta.pages < 4 || c.meta.pages > uint64(stat.Size())/pageSize {
		return fmt.Errorf("%d pages in use, the file has %d bytes", c.meta.pages, stat.Size())
	}
	c.seen = make([]uint64, c.meta.pages/64+1)
	c.mark(0)
	c.mark(1)
	if err := c.tree(c.meta.root, 0, 0); err != nil {
		return err
	}
	if c.only == "" && c.meta.freelist != boltNoFreelist {
		return c.freelist()
	}
	return nil
}

func (c *checker) readMeta() error {
	found, whole := false, 0
	for id := range uint64(2) {
		if err := c.read(id, 0, c.page[:]); err != nil {
			return err
		}
		b := c.page[boltPageHeader:]
		u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
		h := fnv.New64a()
		_, _ = h.Write(b[:boltMetaSize-8]) // a hash does not fail
		if u32(b) != boltMagic || u32(b[4:]) != boltVersion || u32(b[8:]) != pageSize || u64(b[56:]) != h.Sum64() {
			continue
		}
		whole++
		m := boltMeta{root: u64(b[16:]), freelist: u64(b[32:]), pages: u64(b[40:]), txid: u64(b[48:])}
		if !found || m.txid > c.meta.txid {
			c.meta, found = m, true
		}
	}
	if !found {
		return errors.New("both meta pages are invalid")
	}
	c.clean = whole == 2
	return nil
}

// read reads part of a page (or of the pages that overflow from it).
func (c *checker) read(id uint64, offset int, buf []byte) error {
	_, err := c.file.ReadAt(buf, int64(id)*pageSize+int64(offset))
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

// claim reads the header of a page and marks it and what overflows from it. It returns the whole content as far as the
// caller needs it: the first page, or everything if the page has more than one element.
func (c *checker) claim(id uint64) (content []byte, flags uint16, count, size int, err error) {
	if id < 2 || id >= c.meta.pages {
		return nil, 0, 0, 0, fmt.Errorf("page %d is out of range", id)
	}
	if err := c.read(id, 0, c.page[:]); err != nil {
		return nil, 0, 0, 0, err
	}
	h := c.page[:]
	flags = binary.NativeEndian.Uint16(h[8:])
	count = int(binary.NativeEndian.Uint16(h[10:]))
	overflow := uint64(binary.NativeEndian.Uint32(h[12:]))
	if got := binary.NativeEndian.Uint64(h); got != id {
		return nil, 0, 0, 0, fmt.Errorf("page %d says it is page %d", id, got)
	}
	if overflow >= c.meta.pages-id {
		return nil, 0, 0, 0, fmt.Errorf("page %d reaches beyond the end", id)
	}
	for i := range overflow + 1 {
		if !c.mark(id + i) {
			return nil, 0, 0, 0, fmt.Errorf("page %d is used twice", id+i)
		}
	}
	size = int(overflow+1) * pageSize
	if size == pageSize || (count <= 1 && flags == boltLeafPage) {
		return slices.Clone(h), flags, count, size, nil
	}
	if c.budget -= size; c.budget < 0 {
		return nil, 0, 0, 0, errors.New("too many large pages")
	}
	content = make([]byte, size)
	return content, flags, count, size, c.read(id, 0, content)
}

const maxBoltDepth = 32

func (c *checker) tree(id uint64, depth, nesting int) error {
	if depth > maxBoltDepth || nesting > maxBoltDepth {
		return errors.New("tree is too deep")
	}
	content, flags, count, size, err := c.claim(id)
	if err != nil {
		return err
	}
	switch flags {
	case boltLeafPage:
		return c.leaf(content, count, size, nesting, func(err error) error { return fmt.Errorf("page %d: %w", id, err) })
	case boltBranchPage:
		if count == 0 {
			return fmt.Errorf("page %d: branch without elements", id)
		}
		var last []byte
		for i := range count {
			at := boltPageHeader + i*boltElementSize
			if at+boltElementSize > len(content) {
				return fmt.Errorf("page %d: element %d is cut off", id, i)
			}
			e := content[at:]
			key, ok := within(content, at, binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]), size)
			if !ok || len(key) == 0 || (i > 0 && bytes.Compare(last, key) >= 0) {
				return fmt.Errorf("page %d: element %d is invalid", id, i)
			}
			last = key
			if err := c.tree(binary.NativeEndian.Uint64(e[8:]), depth+1, nesting); err != nil {
				return err
			}
		}
		return nil
	default:
		return fmt.Errorf("page %d is of unknown kind %#x", id, flags)
	}
}

// leaf checks the elements of a leaf page. content may be shorter than the page's size if there is only one.
func (c *checker) leaf(content []byte, count, size, nesting int, where func(error) error) error {
	var last []byte
	for i := range count {
		at := boltPageHeader + i*boltElementSize
		if at+boltElementSize > len(content) {
			return where(fmt.Errorf("element %d is cut off", i))
		}
		e := content[at:]
		u32 := binary.NativeEndian.Uint32
		flags, pos, ksize, vsize := u32(e), u32(e[4:]), u32(e[8:]), u32(e[12:])
		key, ok := within(content, at, pos, ksize, size)
		if !ok || len(key) == 0 || (i > 0 && bytes.Compare(last, key) >= 0) || flags > boltBucketLeaf {
			return where(fmt.Errorf("element %d is invalid", i))
		}
		last = key
		valueAt := uint64(at) + uint64(pos) + uint64(ksize)
		if valueAt+uint64(vsize) > uint64(size) {
			return where(fmt.Errorf("value of element %d reaches beyond its page", i))
		}
		if flags != boltBucketLeaf || (c.only != "" && nesting == 0 && string(key) != c.only) {
			continue
		}
		if valueAt+uint64(vsize) > uint64(len(content)) || vsize < 16 {
			return where(fmt.Errorf("bucket of element %d is cut off", i))
		}
		value := content[valueAt : valueAt+uint64(vsize)]
		root := binary.NativeEndian.Uint64(value)
		if root != 0 {
			if err := c.tree(root, 0, nesting+1); err != nil {
				return err
			}
			continue
		}
		inline := value[16:]
		if len(inline) < boltPageHeader || binary.NativeEndian.Uint16(inline[8:]) != boltLeafPage {
			return where(fmt.Errorf("inline bucket of element %d is invalid", i))
		}
		n := int(binary.NativeEndian.Uint16(inline[10:]))
		if err := c.leaf(inline, n, len(inline), maxBoltDepth, where); err != nil {
			return err
		}
	}
	return nil
}

// within returns the key of an element at offset at of a page.
func within(content []byte, at int, pos, ksize uint32, size int) ([]byte, bool) {
	start := uint64(at) + uint64(pos)
	end := start + uint64(ksize)
	if end > uint64(size) || end > uint64(len(content)) {
		return nil, false
	}
	return content[start:end], true
}

// freelist checks the list of free pages: sorted, within the file, and none of them in use.
func (c *checker) freelist() error {
	content, flags, count, size, err := c.claim(c.meta.freelist)
	if err != nil {
		return err
	}
	if flags != boltFreelistPage {
		return fmt.Errorf("page %d is no list of free pages", c.meta.freelist)
	}
	ids := content[boltPageHeader:]
	n := uint64(count)
	if count == 0xFFFF {
		n = binary.NativeEndian.Uint64(ids)
		ids = ids[8:]
	}
	if n > uint64(size)/8 || n*8 > uint64(len(ids)) {
		return errors.New("list of free pages is cut off")
	}
	for i := range n {
		id := binary.NativeEndian.Uint64(ids[i*8:])
		if id < 2 || id >= c.meta.pages || !c.mark(id) {
			return fmt.Errorf("free page %d is out of range or in use", id)
		}
	}
	return nil
}
