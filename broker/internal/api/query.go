package api

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// strictQuery refuses a query that huma would read as another one. huma drops a value that is not
// percent-encoded, and a filter that is dropped answers with everything; it takes the first of several
// values, and an empty value for false or for a filter or list that is not given.
func strictQuery(ctx huma.Context, next func(huma.Context)) {
	if p := queryFault(ctx); p != nil {
		noteProblem(ctx.Context(), p.code)
		_, w := humago.Unwrap(ctx)
		writeProblem(w, p)
		return
	}
	next(ctx)
}

func queryFault(ctx huma.Context) *problem {
	u := ctx.URL()
	if u.RawQuery == "" {
		return nil
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return broken("query", fmt.Sprintf("must be percent-encoded, with %% as %%25 and ; as %%3B: %s", err))
	}
	var faults []*fault
	for _, p := range ctx.Operation().Parameters {
		values := q[p.Name]
		var rule string
		switch {
		case p.In != "query" || len(values) == 0:
			continue
		case p.Schema.Type == huma.TypeArray:
			if !slices.Contains(values, "") {
				continue
			}
			rule = "must not be empty"
		case len(values) > 1:
			rule = fmt.Sprintf("must be given once, and is given %d times", len(values))
		case p.Schema.Type == huma.TypeBoolean && ctx.Query(p.Name) == "":
			rule = "must be true or false"
		case p.Schema.MinLength != nil && values[0] == "":
			rule = "must not be empty"
		default:
			continue
		}
		faults = append(faults, &fault{Location: "query." + p.Name, Message: rule})
	}
	if len(faults) == 0 {
		return nil
	}
	return invalid(faults...)
}
