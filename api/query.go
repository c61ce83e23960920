package api

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/fault"
)

// checkQuery parses the query and refuses parameters that the route does not know, and repeated ones.
func (c *call) checkQuery() error {
	raw := c.gin.Request.URL.RawQuery
	if raw == "" {
		return nil
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return fault.New(fault.BadQuery, "the query is malformed")
	}
	for name, values := range q {
		if !c.route.knows(name) {
			if c.route.Tolerant {
				continue
			}
			return fault.New(fault.BadQuery, "this route does not know one of the query parameters")
		}
		if len(values) > 1 && name != "include" {
			return badQuery(name, "must be given once")
		}
	}
	c.query = q
	return nil
}

func (r *route) knows(name string) bool {
	for _, p := range r.Query {
		if p.Name == name {
			return true
		}
	}
	return false
}

func badQuery(name, what string) error {
	return fault.New(fault.BadQuery, "the query parameter "+name+" "+what)
}

// number reads a query parameter as a whole number from least to most; absent it is otherwise.
func (c *call) number(name string, least, most, otherwise uint64) (uint64, error) {
	v, ok := c.query[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v[0], 10, 64)
	if err != nil || n < least || n > most {
		return 0, badQuery(name, "must be a whole number from "+strconv.FormatUint(least, 10)+" to "+strconv.FormatUint(most, 10))
	}
	return n, nil
}

func (c *call) time(name string) (time.Time, error) {
	v, ok := c.query[name]
	if !ok {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v[0])
	if err != nil {
		return time.Time{}, badQuery(name, "must be a time in RFC 3339")
	}
	return t.UTC(), nil
}

// Pages of lists.
const (
	defaultPage = 100
	maxPage     = 1000
)

// page reads limit and cursor.
func (c *call) page() (limit int, cursor string, err error) {
	n, err := c.number("limit", 1, maxPage, defaultPage)
	if err != nil {
		return 0, "", err
	}
	return int(n), c.query.Get("cursor"), nil
}

// numberCursor reads a cursor that is a number in a list that goes by numbers.
func numberCursor(cursor string, bits int) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(cursor, 10, bits)
	if err != nil || n == 0 || strings.HasPrefix(cursor, "0") {
		return 0, fault.New(fault.BadCursor, "the cursor was not made by this list")
	}
	return n, nil
}

// pathNumber reads a path parameter as a number from 0; what is none names nothing.
func (c *call) pathNumber(name string, bits int, code fault.Code, message string) (uint64, error) {
	n, err := strconv.ParseUint(c.gin.Param(name), 10, bits)
	if err != nil {
		return 0, fault.New(code, message)
	}
	return n, nil
}
