// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/cli/validate.h"

typedef struct {
    char *instance;
    char *disk;
    char *group;
    char *status;
    char *tag;
    char *tag_key;
    char *tag_value;
} Given;

static void
given_clear(Given *given)
{
    g_free(given->instance);
    g_free(given->disk);
    g_free(given->group);
    g_free(given->status);
    g_free(given->tag);
    g_free(given->tag_key);
    g_free(given->tag_value);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Given, given_clear)

static bool
make_filter(Given *given, VsSnapshotFilter *filter, GError **error)
{
    // A socket may be written in several ways; its instance has one id.
    if (given->instance != NULL && g_str_has_prefix(given->instance, "qmp:")) {
        g_autofree char *id = vs_engine_instance_id(given->instance, error);
        if (id == NULL)
            return false;
        g_free(given->instance);
        given->instance = g_steal_pointer(&id);
    }
    VsStatus status = VS_STATUS_PROGRESSING;
    if (given->status != NULL && !vs_parse_status(given->status, &status, error))
        return false;
    if (given->tag != NULL && !vs_parse_tag(given->tag, &given->tag_key, &given->tag_value, error))
        return false;
    *filter = (VsSnapshotFilter){.instance = given->instance,
                                 .disk = given->disk,
                                 .group = given->group,
                                 .status = given->status != NULL ? (int)status : -1,
                                 .tag_key = given->tag_key,
                                 .tag_value = given->tag_value};
    return true;
}

bool
vs_cmd_list(VsInvocation *invocation, GError **error)
{
    g_auto(Given) given = {NULL};
    const GOptionEntry options[] = {
        {"instance", 0, 0, G_OPTION_ARG_FILENAME, &given.instance, "Only of this instance", "I"},
        {"disk", 0, 0, G_OPTION_ARG_FILENAME, &given.disk, "Only of this disk", "D"},
        {"group", 0, 0, G_OPTION_ARG_FILENAME, &given.group, "Only of this group", "G"},
        {"status", 0, 0, G_OPTION_ARG_FILENAME, &given.status,
         "Only progressing, accomplished or failed ones", "S"},
        {"tag", 0, 0, G_OPTION_ARG_FILENAME, &given.tag, "Only with this tag", "K=V"},
        VS_OPTION_END,
    };
    VsSnapshotFilter filter;
    if (!vs_options_parse(invocation, options, error) || !make_filter(&given, &filter, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(GPtrArray) snapshots = vs_catalogue_list(context->catalogue, &filter, error);
    if (snapshots == NULL)
        return false;
    invocation->document = vs_output_snapshots(snapshots);
    vs_output_snapshot_table(snapshots, invocation->text);
    return true;
}
