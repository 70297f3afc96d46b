// Sign a config, as a page's own server does: `go run sign.go API_KEY [ACCESS_TOKEN]`.
// The secret is TERMINAL_SERVER_SIGNING_SECRET of the environment. What is printed goes into the page, which sends
// both texts as they are: the signature is over the exact bytes of config.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"time"
)

// Signed is what the page sends.
type Signed struct {
	Config    string `json:"config"`
	Signature string `json:"signature"`
}

// Sign adds the present time to values and signs them.
func Sign(secret string, values map[string]any) (Signed, error) {
	values["timestamp"] = time.Now().UnixMilli()
	config, err := json.Marshal(values)
	if err != nil {
		return Signed{}, err
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(config)
	return Signed{string(config), hex.EncodeToString(mac.Sum(nil))}, nil
}

func main() {
	values := map[string]any{}
	for i, name := range []string{"apiKey", "accessToken"} {
		if len(os.Args) > i+1 {
			values[name] = os.Args[i+1]
		}
	}
	signed, err := Sign(os.Getenv("TERMINAL_SERVER_SIGNING_SECRET"), values)
	if err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(signed); err != nil {
		panic(err)
	}
}
