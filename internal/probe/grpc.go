package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// maxGRPC bounds the answer; a HealthCheckResponse has 2 bytes.
const maxGRPC = 1 << 10

// errBadMessage is what decodeHealth returns for anything but a health answer.
var errBadMessage = errors.New("the answer is no HealthCheckResponse")

func (a *attempt) awaitGRPC(ctx context.Context) error {
	return a.awaitPort(ctx, "grpc", a.grpc, func(ctx context.Context, conn net.Conn) error {
		return askHealth(ctx, conn, a.rules.GRPCService)
	})
}

// askHealth calls grpc.health.v1.Health/Check over one connection, in plain
// HTTP/2.
func askHealth(ctx context.Context, conn net.Conn, service string) error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:          &protocols,
		DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return conn, nil
		},
	}
	defer transport.CloseIdleConnections()
	url := "http://" + conn.RemoteAddr().String() + "/grpc.health.v1.Health/Check"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(encodeHealth(service)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", "pitvisor-probe")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("call the health service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxGRPC))
	if err != nil {
		return fmt.Errorf("read the health answer: %w", err)
	}
	return judgeHealth(resp, body, service)
}

// judgeHealth turns an answer into nil for SERVING or an error for the rest.
func judgeHealth(resp *http.Response, body []byte, service string) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %s", resp.Status)
	}
	code := resp.Trailer.Get("Grpc-Status")
	message := resp.Trailer.Get("Grpc-Message")
	if code == "" { // an answer without a message has no trailers of its own
		code, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch code {
	case "0":
	case "":
		return errors.New("the answer has no grpc-status: this is no gRPC server")
	case "5":
		return fmt.Errorf("the health service does not know the service %q", service)
	case "12":
		return errors.New("the server has no health service (grpc.health.v1.Health)")
	default:
		return fmt.Errorf("grpc-status %s: %s", code, shorten(message))
	}
	status, err := decodeHealth(body)
	if err != nil {
		return err
	}
	if status != 1 {
		return fmt.Errorf("health status %s", healthName(status))
	}
	return nil
}

func healthName(status uint64) string {
	names := []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
	if status < uint64(len(names)) {
		return names[status]
	}
	return strconv.FormatUint(status, 10)
}

// encodeHealth is a HealthCheckRequest, field 1 the service, in a gRPC frame:
// not compressed, length, message.
func encodeHealth(service string) []byte {
	var message []byte
	if service != "" {
		message = append(message, 1<<3|2)
		message = binary.AppendUvarint(message, uint64(len(service)))
		message = append(message, service...)
	}
	frame := []byte{0}
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(message)))
	return append(frame, message...)
}

// decodeHealth returns the status, field 1, of a HealthCheckResponse in a gRPC
// frame. Without the field it is 0; other fields are skipped.
func decodeHealth(frame []byte) (status uint64, err error) {
	if len(frame) < 5 || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:])) != len(frame)-5 {
		return 0, errBadMessage
	}
	for b := frame[5:]; len(b) > 0; {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, errBadMessage
		}
		b = b[n:]
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, errBadMessage
		}
		b = b[n:]
		switch {
		case key == 1<<3: // field 1, a number
			status = value
		case key&7 == 0: // some other number
		case key&7 == 2 && value <= uint64(len(b)):
			b = b[value:]
		default:
			return 0, errBadMessage
		}
	}
	return status, nil
}
