// The life of an application by Svix's official Go library, unchanged, against our server.
//
// Prints each thing that it did; a mismatch is printed with what was found, and the exit code is 1 at the end.
// Needs BELLWIRE_URL, BELLWIRE_TOKEN and BELLWIRE (run.py beside this folder sets them).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	svix "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
	"github.com/svix/svix-webhooks/go/utils"
)

var (
	ctx      = context.Background()
	failures []string
	client   *svix.Svix
	here     string
	failing  atomic.Bool
	mutex    sync.Mutex
	received []arrival
)

type arrival struct {
	path    string
	headers http.Header
	body    []byte
}

func check(what string, good bool, found ...any) {
	if good {
		fmt.Println("  ok       " + what)
		return
	}
	fmt.Printf("  MISMATCH %s: %+v\n", what, found)
	failures = append(failures, what)
}

// must ends a chapter at the first error that is none of its own; the next chapter begins.
func must[T any](value T, err error) T {
	if err != nil {
		panic(described(err))
	}
	return value
}

func done(err error) {
	if err != nil {
		panic(described(err))
	}
}

func described(err error) string {
	if known, ok := err.(*svix.Error); ok {
		return fmt.Sprintf("%s: %s", err, known.Body())
	}
	return err.Error()
}

func refused(what string, err error, status int) {
	known, ok := err.(*svix.Error)
	check(what, ok && known.Status() == status, err)
}

func chapter(name string, story func()) {
	fmt.Println(name)
	defer func() {
		if trouble := recover(); trouble != nil {
			check("went through", false, trouble)
		}
	}()
	story()
}

func receive(answer http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	mutex.Lock()
	received = append(received, arrival{request.URL.Path, request.Header, body})
	mutex.Unlock()
	if request.URL.Path == "/fail" && failing.Load() {
		answer.WriteHeader(500)
	}
	_, _ = answer.Write([]byte("hello"))
}

func arrived(path, id string) (found []arrival) {
	mutex.Lock()
	defer mutex.Unlock()
	for _, one := range received {
		if one.path == path && (one.headers.Get("webhook-id") == id || one.headers.Get("svix-id") == id) {
			found = append(found, one)
		}
	}
	return found
}

// eventually reads until it is as wanted, and answers the last reading.
func eventually[T any](read func() T, good func(T) bool) T {
	end := time.Now().Add(8 * time.Second)
	for {
		value := read()
		if good(value) || time.Now().After(end) {
			return value
		}
		time.Sleep(30 * time.Millisecond)
	}
}

func wait(path, id string, count int) []arrival {
	return eventually(func() []arrival { return arrived(path, id) }, func(found []arrival) bool { return len(found) >= count })
}

func ptr[T any](value T) *T { return &value }

func main() {
	server := httptest.NewServer(http.HandlerFunc(receive))
	defer server.Close()
	here = server.URL
	failing.Store(true)
	at := must(url.Parse(os.Getenv("BELLWIRE_URL")))
	client = must(svix.New(os.Getenv("BELLWIRE_TOKEN"), &svix.SvixOptions{ServerUrl: at}))
	uid := fmt.Sprintf("go-%d", time.Now().UnixNano())
	var app, main, broken, filtered, message string
	secret := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	payload := map[string]any{"amount": 12.5, "text": "ünïcode ✓", "nested": map[string]any{"list": []any{1.0, nil, true}}}

	chapter("application", func() {
		made := must(client.Application.Create(ctx, models.ApplicationIn{Name: "Life", Uid: &uid, Metadata: &map[string]string{"plan": "gold"}}, nil))
		app = made.Id
		check("create", strings.HasPrefix(made.Id, "app_") && *made.Uid == uid && made.Metadata["plan"] == "gold", made)
		check("get by uid", must(client.Application.Get(ctx, uid)).Id == app)
		check("get_or_create", must(client.Application.GetOrCreate(ctx, models.ApplicationIn{Name: "Other", Uid: &uid}, nil)).Id == app)
		_, err := client.Application.Create(ctx, models.ApplicationIn{Name: "Life", Uid: &uid}, nil)
		refused("the same uid again: 409", err, 409)
		check("update", must(client.Application.Update(ctx, app, models.ApplicationIn{Name: "Renamed", Uid: &uid})).Name == "Renamed")
		patched := must(client.Application.Patch(ctx, app, models.ApplicationPatch{Metadata: &map[string]string{"plan": "tin"}}))
		check("patch changes what it names", patched.Name == "Renamed" && patched.Metadata["plan"] == "tin", patched)
		listed := must(client.Application.List(ctx, &svix.ApplicationListOptions{Limit: ptr(uint64(250))}))
		check("list", len(listed.Data) >= 1)
	})
	chapter("event types", func() {
		for _, name := range []string{"invoice.paid", "invoice.sent"} {
			_, err := client.EventType.Create(ctx, models.EventTypeIn{Name: name, Description: name + " happened"}, nil)
			if err != nil {
				refused(name+" exists from another life", err, 409)
			}
		}
		check("get", must(client.EventType.Get(ctx, "invoice.paid")).Name == "invoice.paid")
		_, err := client.EventType.Create(ctx, models.EventTypeIn{Name: "no spaces", Description: "x"}, nil)
		refused("a bad name: 422", err, 422)
	})
	chapter("endpoints", func() {
		made := must(client.Endpoint.Create(ctx, app, models.EndpointIn{Url: here + "/main", Uid: ptr("main"), Secret: &secret, Metadata: &map[string]string{"a": "b"}, ThrottleRate: ptr(uint16(1000))}, nil))
		main = made.Id
		check("create", strings.HasPrefix(main, "ep_") && made.Url == here+"/main" && *made.ThrottleRate == 1000, made)
		check("our secret is kept", must(client.Endpoint.GetSecret(ctx, app, main)).Key == secret)
		broken = must(client.Endpoint.Create(ctx, app, models.EndpointIn{Url: here + "/fail", FilterTypes: []string{"invoice.paid"}}, nil)).Id
		filtered = must(client.Endpoint.Create(ctx, app, models.EndpointIn{Url: here + "/filtered", FilterTypes: []string{"invoice.sent"}, Channels: []string{"north"}}, nil)).Id
		check("list holds all three", len(must(client.Endpoint.List(ctx, app, nil)).Data) == 3)
		_, err := client.Endpoint.Create(ctx, app, models.EndpointIn{Url: "nonsense"}, nil)
		refused("not a URL: 422", err, 422)
		patched := must(client.Endpoint.Patch(ctx, app, main, models.EndpointPatch{Description: ptr("patched"), ThrottleRate: utils.NewNullableFromPtr[uint16](nil)}))
		check("patch, with null to unset", patched.Description == "patched" && patched.ThrottleRate == nil, patched)
	})
	chapter("headers", func() {
		done(client.Endpoint.UpdateHeaders(ctx, app, main, models.EndpointHeadersIn{Headers: map[string]string{"X-One": "1", "Authorization": "Bearer x"}}))
		done(client.Endpoint.PatchHeaders(ctx, app, main, models.EndpointHeadersPatchIn{Headers: map[string]string{"X-Two": "2"}}))
		shown := must(client.Endpoint.GetHeaders(ctx, app, main))
		check("both shown, the sensitive one only named", len(shown.Headers) == 2 && len(shown.Sensitive) == 1, shown)
	})
	chapter("a message arrives", func() {
		made := must(client.Message.Create(ctx, app, models.MessageIn{EventType: "invoice.paid", EventId: ptr("event-1"), Payload: payload, Tags: []string{"t1"}}, nil))
		message = made.Id
		found := wait("/main", message, 1)
		check("arrives once", len(found) == 1, len(found))
		var body map[string]any
		done(json.Unmarshal(found[0].body, &body))
		check("the payload is what we sent", reflect.DeepEqual(body, payload), body)
		hook := must(svix.NewWebhook(secret))
		check("svix.Webhook verifies it", hook.Verify(found[0].body, found[0].headers) == nil)
		check("a changed body is refused", hook.Verify(append([]byte(" "), found[0].body...), found[0].headers) != nil)
		check("custom headers are there", found[0].headers.Get("x-one") == "1" && found[0].headers.Get("x-two") == "2")
		sent := must(client.Message.Create(ctx, app, models.MessageIn{EventType: "invoice.sent", Payload: map[string]any{"n": 1}, Channels: []string{"north"}}, nil))
		check("filters: sent where type and channel match", len(wait("/filtered", sent.Id, 1)) == 1)
		check("  and nowhere else", len(arrived("/filtered", message)) == 0 && filtered != "")
		_, err := client.Message.Create(ctx, app, models.MessageIn{EventType: "invoice.paid", EventId: ptr("event-1"), Payload: payload}, nil)
		refused("the same event id again: 409", err, 409)
		key := svix.MessageCreateOptions{IdempotencyKey: &uid}
		one := must(client.Message.Create(ctx, app, models.MessageIn{EventType: "a.b", Payload: map[string]any{"x": 1}}, &key))
		two := must(client.Message.Create(ctx, app, models.MessageIn{EventType: "a.b", Payload: map[string]any{"x": 1}}, &key))
		check("the same idempotency key gives the same message", one.Id == two.Id)
		_, err = client.Message.Create(ctx, app, models.MessageIn{EventType: "a.b", Payload: map[string]any{"x": 2}}, &key)
		refused("with another body: 409", err, 409)
	})
	chapter("reading messages", func() {
		got := must(client.Message.Get(ctx, app, message, &svix.MessageGetOptions{WithContent: ptr(true)}))
		check("get with content", got.Payload["amount"] == 12.5, got)
		for n := range 7 {
			must(client.Message.Create(ctx, app, models.MessageIn{EventType: "page.turned", Payload: map[string]any{"n": n}}, nil))
		}
		every := must(client.Message.List(ctx, app, &svix.MessageListOptions{Limit: ptr(uint64(250))})).Data
		var paged []models.MessageOut
		options := svix.MessageListOptions{Limit: ptr(uint64(3))}
		for {
			page := must(client.Message.List(ctx, app, &options))
			paged = append(paged, page.Data...)
			if page.Done {
				break
			}
			options.Iterator = page.Iterator
		}
		check("page by page is the whole", reflect.DeepEqual(paged, every), len(paged), len(every))
		typed := must(client.Message.List(ctx, app, &svix.MessageListOptions{EventTypes: &[]string{"invoice.paid"}})).Data
		check("by event type", len(typed) == 1 && typed[0].Id == message, typed)
		check("by tag", len(must(client.Message.List(ctx, app, &svix.MessageListOptions{Tag: ptr("t1")})).Data) == 1)
	})
	chapter("attempts", func() {
		failed := eventually(func() []models.MessageAttemptOut {
			return must(client.MessageAttempt.ListByEndpoint(ctx, app, broken, nil)).Data
		}, func(data []models.MessageAttemptOut) bool { return len(data) >= 3 })
		check("three failed attempts by the schedule", len(failed) == 3 && failed[0].Status == models.MESSAGESTATUS_FAIL && failed[0].ResponseStatusCode == 500, failed)
		good := must(client.MessageAttempt.ListByMsg(ctx, app, message, &svix.MessageAttemptListByMsgOptions{EndpointId: &main})).Data
		check("success, with the response", len(good) == 1 && good[0].Response == "hello" && good[0].StatusText == models.MESSAGESTATUSTEXT_SUCCESS, good)
		check("get one", must(client.MessageAttempt.Get(ctx, app, message, good[0].Id, nil)).Id == good[0].Id)
		check("destinations", len(must(client.MessageAttempt.ListAttemptedDestinations(ctx, app, message, nil)).Data) == 2)
		check("attempted messages", len(must(client.MessageAttempt.ListAttemptedMessages(ctx, app, broken, nil)).Data) == 1)
	})
	chapter("resend and recover", func() {
		failing.Store(false)
		must(client.MessageAttempt.Resend(ctx, app, message, broken, nil))
		check("resend sends once more", len(wait("/fail", message, 4)) == 4)
		failing.Store(true)
		begun := time.Now().Add(-time.Second)
		lost := must(client.Message.Create(ctx, app, models.MessageIn{EventType: "invoice.paid", Payload: map[string]any{"lost": 1}}, nil))
		eventually(func() int64 { return must(client.Endpoint.GetStats(ctx, app, broken, nil)).Fail }, func(fail int64) bool { return fail == 1 })
		failing.Store(false)
		task := must(client.Endpoint.Recover(ctx, app, broken, models.RecoverIn{Since: begun}, nil))
		check("recover is a task", strings.HasPrefix(task.Id, "qtask_"), task)
		check("  and sends what failed", len(wait("/fail", lost.Id, 4)) == 4)
		finished := eventually(func() models.BackgroundTaskStatus { return must(client.BackgroundTask.Get(ctx, task.Id)).Status },
			func(status models.BackgroundTaskStatus) bool { return status == models.BACKGROUNDTASKSTATUS_FINISHED })
		check("  and the task is finished", finished == models.BACKGROUNDTASKSTATUS_FINISHED, finished)
		check("  and is in the list", len(must(client.BackgroundTask.List(ctx, nil)).Data) >= 1)
		stats := eventually(func() *models.EndpointStats { return must(client.Endpoint.GetStats(ctx, app, broken, nil)) },
			func(stats *models.EndpointStats) bool { return stats.Success == 2 })
		check("stats: all succeeded", stats.Success == 2 && stats.Fail == 0, stats)
	})
	chapter("secrets", func() {
		done(client.Endpoint.RotateSecret(ctx, app, main, models.EndpointSecretRotateIn{}, nil))
		fresh := must(client.Endpoint.GetSecret(ctx, app, main)).Key
		check("rotate gives a new one", fresh != secret)
		sent := must(client.Message.Create(ctx, app, models.MessageIn{EventType: "a.b", Payload: map[string]any{"rotated": true}}, nil))
		found := wait("/main", sent.Id, 1)
		for _, key := range []string{secret, fresh} {
			check("in the grace period both verify", must(svix.NewWebhook(key)).Verify(found[0].body, found[0].headers) == nil)
		}
	})
	chapter("an application's token", func() {
		token := must(exec.Command(os.Getenv("BELLWIRE"), "token", "--application", app).Output())
		portal := must(svix.New(strings.TrimSpace(string(token)), &svix.SvixOptions{ServerUrl: at}))
		check("reads its own application", len(must(portal.Endpoint.List(ctx, app, nil)).Data) == 3)
		_, err := portal.Application.List(ctx, nil)
		refused("  and lists no applications", err, 403)
		access := must(client.Authentication.AppPortalAccess(ctx, app, models.AppPortalAccessIn{}, nil))
		check("portal access is a token and an address", access.Token != "" && strings.Contains(access.Url, "#key="), access.Url)
		visitor := must(svix.New(access.Token, &svix.SvixOptions{ServerUrl: at}))
		check("  and the token is the application's", len(must(visitor.Endpoint.List(ctx, app, nil)).Data) == 3)
		wrong := must(svix.New("nonsense", &svix.SvixOptions{ServerUrl: at}))
		_, err = wrong.Application.List(ctx, nil)
		refused("a wrong token: 401", err, 401)
	})
	chapter("the end", func() {
		done(client.Message.ExpungeContent(ctx, app, message))
		gone := must(client.Message.Get(ctx, app, message, nil))
		check("expunged", reflect.DeepEqual(gone.Payload, map[string]any{"expired": true}), gone.Payload)
		done(client.Application.Delete(ctx, app))
		_, err := client.Application.Get(ctx, app)
		refused("the application is gone", err, 404)
	})
	fmt.Printf("go: %d mismatches\n", len(failures))
	for _, failure := range failures {
		fmt.Println("  " + failure)
	}
	if len(failures) > 0 {
		os.Exit(1)
	}
}
