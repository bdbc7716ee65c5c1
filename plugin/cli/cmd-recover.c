// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/interrupt.h"
#include "plugin/cli/output.h"
#include "plugin/error.h"
#include "plugin/snapshot/recover.h"

static GPtrArray *
recover(VsContext *context, GError **error)
{
    g_autoptr(VsInterrupt) interrupt = vs_interrupt_new();
    VsEngine engine = {.repository = context->repository,
                       .catalogue = context->catalogue,
                       .connect_uri = context->invocation->connect,
                       .cancellable = vs_interrupt_cancellable(interrupt)};
    return vs_engine_recover(&engine, VS_RECOVER_ALL, error);
}

static void
answer(VsInvocation *invocation, const VsRecovered *one, struct json_object *list)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "instance", vs_output_string(one->instance));
    json_object_object_add(object, "error", vs_output_string(one->error));
    json_object_array_add(list, object);
    g_autofree char *name = vs_error_quote(one->instance);
    g_autofree char *cause = one->error ? vs_error_escape(one->error, G_MAXSIZE) : NULL;
    g_string_append_printf(invocation->text, "%s: %s\n", name,
                           cause ? cause : "nothing of an interrupted command is left");
}

bool
vs_cmd_recover(VsInvocation *invocation, GError **error)
{
    const GOptionEntry options[] = {VS_OPTION_END};
    if (!vs_options_parse(invocation, options, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    g_autoptr(GPtrArray) recovered = context != NULL ? recover(context, error) : NULL;
    if (recovered == NULL)
        return false;
    struct json_object *list = json_object_new_array();
    invocation->document = json_object_new_object();
    json_object_object_add(invocation->document, "recovered", list);
    const VsRecovered *failed = NULL;
    for (guint i = 0; i < recovered->len; i++) {
        const VsRecovered *one = g_ptr_array_index(recovered, i);
        answer(invocation, one, list);
        failed = one->error ? one : failed;
    }
    if (failed != NULL)
        g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "recovering %s: %s", failed->instance,
                    failed->error);
    return failed == NULL;
}
