package e2e_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// The life of a key as a stock SDK drives it: changed, rotated, deleted, recovered, deleted again and purged.
func TestAzureSDKForGoKeyLife(t *testing.T) {
	s := start(t)
	client, ctx := azureClient(t, s, s.URL(t, "alpha")), t.Context()
	activate(t, s, "alpha")
	ec := azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM), Curve: to.Ptr(azkeys.CurveNameP256), Tags: map[string]*string{"a": to.Ptr("b")}}
	made, err := client.CreateKey(ctx, "life", ec, nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error, status int, code string) {
		t.Helper()
		if response, is := errors.AsType[*azcore.ResponseError](err); !is || response.StatusCode != status || response.ErrorCode != code {
			t.Errorf("%s: got %v, want %d %s", what, err, status, code)
		}
	}
	sign := func() error {
		_, err := client.Sign(ctx, "life", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmES256), Value: make([]byte, 32)}, nil)
		return err
	}

	// What a user does: take the attributes as they came, change one, send all of them back.
	attributes := made.Attributes
	attributes.Enabled = to.Ptr(false)
	updated, err := client.UpdateKey(ctx, "life", "", azkeys.UpdateKeyParameters{KeyAttributes: attributes}, nil)
	if err != nil || *updated.Attributes.Enabled || *updated.Tags["a"] != "b" || len(updated.Key.KeyOps) != 2 {
		t.Fatalf("update: %v", err)
	}
	refused("sign with a disabled key", sign(), 403, "KeyDisabled")
	attributes.Enabled, attributes.Expires = to.Ptr(true), to.Ptr(time.Now().AddDate(1, 0, 0))
	if _, err := client.UpdateKey(ctx, "life", made.Key.KID.Version(), azkeys.UpdateKeyParameters{KeyAttributes: attributes, KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationSign)}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := sign(); err != nil {
		t.Errorf("sign once it is enabled again: %v", err)
	}

	policy := azkeys.KeyRotationPolicy{
		Attributes: &azkeys.KeyRotationPolicyAttributes{ExpiryTime: to.Ptr("P90D")},
		LifetimeActions: []*azkeys.LifetimeAction{{
			Action:  &azkeys.LifetimeActionType{Type: to.Ptr(azkeys.KeyRotationPolicyActionRotate)},
			Trigger: &azkeys.LifetimeActionTrigger{TimeBeforeExpiry: to.Ptr("P30D")},
		}},
	}
	if _, err := client.UpdateKeyRotationPolicy(ctx, "life", policy, nil); err != nil {
		t.Fatal(err)
	}
	got, err := client.GetKeyRotationPolicy(ctx, "life", nil)
	if err != nil || *got.Attributes.ExpiryTime != "P90D" || len(got.LifetimeActions) != 1 || *got.LifetimeActions[0].Trigger.TimeBeforeExpiry != "P30D" || got.Attributes.Created == nil {
		t.Fatalf("policy: %v, %+v", err, got)
	}
	rotated, err := client.RotateKey(ctx, "life", nil)
	if err != nil || rotated.Key.KID.Version() == made.Key.KID.Version() || time.Until(*rotated.Attributes.Expires).Round(24*time.Hour) != 90*24*time.Hour {
		t.Fatalf("rotate: %v", err)
	}
	var versions []string
	for pager := client.NewListKeyPropertiesVersionsPager("life", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Value {
			versions = append(versions, v.KID.Version())
		}
	}
	if want := []string{made.Key.KID.Version(), rotated.Key.KID.Version()}; fmt.Sprint(versions) != fmt.Sprint(want) {
		t.Errorf("versions: %v, want %v", versions, want)
	}
	for range 30 { // more than a page of deleted keys
		name := fmt.Sprintf("many-%d", len(versions))
		versions = append(versions, "")
		if _, err := client.CreateKey(ctx, name, ec, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := client.DeleteKey(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
	}

	deleted, err := client.DeleteKey(ctx, "life", nil)
	if err != nil || deleted.RecoveryID == nil || deleted.ScheduledPurgeDate.Sub(*deleted.DeletedDate) != 90*24*time.Hour {
		t.Fatalf("delete: %v", err)
	}
	refused("sign with a deleted key", sign(), 404, "KeyNotFound")
	_, err = client.CreateKey(ctx, "life", ec, nil)
	refused("create over a deleted key", err, 409, "Conflict")
	count := 0
	for pager := client.NewListDeletedKeyPropertiesPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Value {
			count++
			if k.RecoveryID == nil || k.DeletedDate == nil || k.ScheduledPurgeDate == nil {
				t.Errorf("deleted key %s lacks a part", *k.KID)
			}
		}
	}
	if count != 31 {
		t.Errorf("%d deleted keys are listed, want 31", count)
	}
	if _, err := client.GetDeletedKey(ctx, "life", nil); err != nil {
		t.Error(err)
	}
	recovered, err := client.RecoverDeletedKey(ctx, "life", nil)
	if err != nil || recovered.Key.KID.Version() != rotated.Key.KID.Version() {
		t.Fatalf("recover: %v", err)
	}
	if err := sign(); err != nil {
		t.Errorf("sign with the recovered key: %v", err)
	}
	if _, err := client.DeleteKey(ctx, "life", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.PurgeDeletedKey(ctx, "life", nil); err != nil {
		t.Fatalf("purge: %v", err)
	}
	_, err = client.GetDeletedKey(ctx, "life", nil)
	refused("a purged key", err, 404, "KeyNotFound")

	random, err := client.GetRandomBytes(ctx, azkeys.GetRandomBytesParameters{Count: to.Ptr[int32](32)}, nil)
	if err != nil || len(random.Value) != 32 {
		t.Errorf("random bytes: %d, %v", len(random.Value), err)
	}
}
