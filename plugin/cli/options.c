// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/options.h"

#include "plugin/error.h"

#include <string.h>
#include <unistd.h>

static const char *const GLOBAL_OPTIONS_WITH_VALUE[] = {"--repo", "--connect", "--output", NULL};

// The index of the next word that is no option, from start on; the number of words where there is
// none.
static unsigned
next_plain_word(char *const *words, unsigned start)
{
    unsigned i = start;
    while (words[i] != NULL && words[i][0] == '-' && words[i][1] != '\0') {
        if (strcmp(words[i], "--") == 0)
            return g_strv_length((char **)words);
        bool has_value = g_strv_contains(GLOBAL_OPTIONS_WITH_VALUE, words[i]);
        i += has_value && words[i + 1] != NULL ? 2 : 1;
    }
    return i;
}

static const VsCommand *
find_command(const VsCommand *commands, const char *name)
{
    for (; commands->name != NULL; commands++) {
        if (strcmp(commands->name, name) == 0)
            return commands;
    }
    return NULL;
}

// The second words of the commands that begin with name: "init, check"; NULL: there are none.
static char *
family_of(const VsCommand *commands, const char *name)
{
    g_autofree char *prefix = g_strconcat(name, " ", NULL);
    g_autoptr(GPtrArray) members = g_ptr_array_new();
    for (; commands->name != NULL; commands++) {
        if (g_str_has_prefix(commands->name, prefix))
            g_ptr_array_add(members, (gpointer)(commands->name + strlen(prefix)));
    }
    if (members->len == 0)
        return NULL;
    g_ptr_array_add(members, NULL);
    return g_strjoinv(", ", (char **)members->pdata);
}

// All words but the program, and the one or two that name the subcommand.
static char **
words_without(char *const *argv, unsigned first, unsigned second)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    for (unsigned i = 1; argv[i] != NULL; i++) {
        if (i != first && i != second)
            g_ptr_array_add(words, g_strdup(argv[i]));
    }
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}

static bool
is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static bool
is_version(const char *word)
{
    return strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0;
}

// --help or --version without a subcommand, NULL: neither.
static const char *
find_information_option(char *const *argv)
{
    for (unsigned i = 1; argv[i] != NULL; i++) {
        if (is_help(argv[i]) || is_version(argv[i]))
            return is_help(argv[i]) ? "--help" : "--version";
    }
    return NULL;
}

static VsInvocation *
invocation_new(const VsCommand *command, char **words)
{
    VsInvocation *invocation = g_new0(VsInvocation, 1);
    invocation->command = command;
    invocation->words = words;
    invocation->text = g_string_new(NULL);
    return invocation;
}

// "help COMMAND" is "COMMAND --help".
static VsInvocation *
find_for_help(char *const *argv, unsigned help, const VsCommand *commands, const char **word,
              GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    for (unsigned i = 0; argv[i] != NULL; i++) {
        if (i != help)
            g_ptr_array_add(words, argv[i]);
    }
    char option[] = "--help";
    g_ptr_array_add(words, option);
    g_ptr_array_add(words, NULL);
    return vs_options_find_command((char **)words->pdata, commands, word, error);
}

// family: what may follow name's first word, NULL: nothing.
static void
set_unknown_command(const char *name, const char *family, GError **error)
{
    g_autofree char *quoted = vs_error_quote(name);
    if (family == NULL)
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER,
                    "unknown command %s: see `virtsnap --help`", quoted);
    else
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "%s: %s: give one of %s", quoted,
                    strchr(name, ' ') != NULL ? "unknown command" : "a word is missing", family);
}

VsInvocation *
vs_options_find_command(char *const *argv, const VsCommand *commands, const char **word,
                        GError **error)
{
    unsigned count = g_strv_length((char **)argv);
    unsigned first = next_plain_word(argv, MIN(1, count));
    *word = NULL;
    if (first >= count) {
        *word = find_information_option(argv);
        if (*word != NULL)
            return invocation_new(NULL, words_without(argv, 0, 0));
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER,
                    "no command given: see `virtsnap --help`");
        return NULL;
    }
    if (strcmp(argv[first], "help") == 0)
        return find_for_help(argv, first, commands, word, error);
    unsigned second = 0;
    g_autofree char *name = g_strdup(argv[first]);
    g_autofree char *family = family_of(commands, argv[first]);
    if (family != NULL) {
        second = next_plain_word(argv, first + 1);
        if (second < count) {
            g_free(name);
            name = g_strdup_printf("%s %s", argv[first], argv[second]);
        } else if ((*word = find_information_option(argv)) != NULL) {
            return invocation_new(NULL, words_without(argv, 0, 0));
        }
    }
    // "repo init" as one word is none of ours.
    bool has_blank = strchr(argv[first], ' ') != NULL;
    const VsCommand *command = has_blank ? NULL : find_command(commands, name);
    if (command == NULL) {
        set_unknown_command(name, family, error);
        return NULL;
    }
    return invocation_new(command, words_without(argv, first, second));
}

void
vs_invocation_free(VsInvocation *invocation)
{
    if (invocation == NULL)
        return;
    g_strfreev(invocation->words);
    g_strfreev(invocation->arguments);
    g_free(invocation->repo);
    g_free(invocation->connect);
    g_string_free(invocation->text, TRUE);
    json_object_put(invocation->document);
    g_free(invocation);
}

char *
vs_options_default_repository(void)
{
    const char *set = g_getenv("VIRTSNAP_REPO");
    if (set != NULL && *set != '\0')
        return g_strdup(set);
    if (geteuid() == 0)
        return g_strdup("/var/lib/virtsnap");
    return g_build_filename(g_get_user_data_dir(), "virtsnap", NULL);
}

static bool
take_arguments(VsInvocation *invocation, char **given, GError **error)
{
    const VsCommand *command = invocation->command;
    unsigned count = given != NULL ? g_strv_length(given) : 0;
    if (count >= command->min_arguments && count <= command->max_arguments) {
        invocation->arguments = given != NULL ? g_strdupv(given) : g_new0(char *, 1);
        return true;
    }
    if (count < command->min_arguments) {
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER,
                    "%s: an argument is missing: give virtsnap %s %s", command->name, command->name,
                    command->arguments);
        return false;
    }
    g_autofree char *quoted = vs_error_quote(given[command->max_arguments]);
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "%s: %s is one argument too many",
                command->name, quoted);
    return false;
}

static bool
take_output(VsInvocation *invocation, const char *output, GError **error)
{
    invocation->json = g_strcmp0(output, "json") == 0;
    if (output == NULL || invocation->json || strcmp(output, "table") == 0)
        return true;
    g_autofree char *quoted = vs_error_quote(output);
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "--output %s: give one of table, json",
                quoted);
    return false;
}

static bool
take_repository(VsInvocation *invocation, char **repo, GError **error)
{
    invocation->repo = *repo != NULL ? g_steal_pointer(repo) : vs_options_default_repository();
    if (*invocation->repo != '\0')
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "--repo: it is empty: give a folder");
    return false;
}

static GOptionContext *
new_context(const VsCommand *command, const GOptionEntry *own, const GOptionEntry *global)
{
    g_autofree char *usage = g_strdup_printf(
        "%s%s%s", command->name, *command->arguments != '\0' ? " " : "", command->arguments);
    GOptionContext *context = g_option_context_new(usage);
    g_option_context_set_summary(context, command->summary);
    // GLib's own --help would exit without noticing that standard output can't be written.
    g_option_context_set_help_enabled(context, FALSE);
    if (own != NULL)
        g_option_context_add_main_entries(context, own, NULL);
    g_option_context_add_main_entries(context, global, NULL);
    return context;
}

static const GOptionEntry *
find_entry(const GOptionEntry *entries, const char *name, size_t length)
{
    for (; entries != NULL && entries->long_name != NULL; entries++) {
        if (length > 0 && strlen(entries->long_name) == length &&
            strncmp(entries->long_name, name, length) == 0)
            return entries;
    }
    return NULL;
}

// The option that a word names, NULL: none. *has_value: whether the word has its value too.
static const GOptionEntry *
entry_of_word(const char *word, const GOptionEntry *own, const GOptionEntry *global,
              bool *has_value)
{
    if (!g_str_has_prefix(word, "--"))
        return NULL;
    const char *name = word + 2;
    size_t length = strcspn(name, "=");
    const GOptionEntry *entry = find_entry(own, name, length);
    *has_value = name[length] == '=';
    return entry != NULL ? entry : find_entry(global, name, length);
}

// What GLib lets pass: "--full=no" is "--full" to it, and of two values it takes the last.
static bool
check_words(char *const *words, const GOptionEntry *own, const GOptionEntry *global, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    for (unsigned i = 0; words[i] != NULL && strcmp(words[i], "--") != 0; i++) {
        bool has_value;
        const GOptionEntry *entry = entry_of_word(words[i], own, global, &has_value);
        if (entry == NULL)
            continue;
        bool is_flag = entry->arg == G_OPTION_ARG_NONE;
        bool may_repeat = is_flag || entry->arg == G_OPTION_ARG_FILENAME_ARRAY;
        bool twice = !g_hash_table_add(seen, (gpointer)entry->long_name) && !may_repeat;
        if (twice || (is_flag && has_value)) {
            g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "--%s: it %s",
                        entry->long_name, twice ? "is given twice" : "takes no value");
            return false;
        }
        // The next word is this option's value, whatever it looks like.
        if (!is_flag && !has_value && words[i + 1] != NULL)
            i++;
    }
    return true;
}

bool
vs_options_parse(VsInvocation *invocation, const GOptionEntry *entries, GError **error)
{
    g_autofree char *repo = NULL;
    g_autofree char *output = NULL;
    g_auto(GStrv) arguments = NULL;
    gboolean quiet = FALSE;
    gboolean help = FALSE;
    const GOptionEntry global[] = {
        {"repo", 0, 0, G_OPTION_ARG_FILENAME, &repo, "The repository", "DIR"},
        {"connect", 0, 0, G_OPTION_ARG_FILENAME, &invocation->connect, "libvirt's URI", "URI"},
        {"output", 0, 0, G_OPTION_ARG_FILENAME, &output, "How to answer", "table|json"},
        {"quiet", 0, 0, G_OPTION_ARG_NONE, &quiet, "No progress, no warnings", NULL},
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, "Show this help", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &arguments, NULL, NULL},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    if (!check_words(invocation->words, entries, global, error))
        return false;
    g_autoptr(GOptionContext) context = new_context(invocation->command, entries, global);
    // The parser wants the program's name first, and takes the array (not its texts) apart.
    g_auto(GStrv) words = g_new0(char *, g_strv_length(invocation->words) + 2);
    words[0] = g_strdup("virtsnap");
    for (unsigned i = 0; invocation->words[i] != NULL; i++)
        words[i + 1] = g_strdup(invocation->words[i]);
    GError *cause = NULL;
    if (!g_option_context_parse_strv(context, &words, &cause)) {
        g_set_error(error, cause->domain, cause->code, "%s: see `virtsnap %s --help`",
                    cause->message, invocation->command->name);
        g_error_free(cause);
        return false;
    }
    invocation->quiet = quiet;
    if (help) {
        g_autofree char *text = g_option_context_get_help(context, TRUE, NULL);
        g_string_append(invocation->text, text);
        return false;
    }
    return take_output(invocation, output, error) && take_repository(invocation, &repo, error) &&
           take_arguments(invocation, arguments, error);
}

bool
vs_options_want_json(char *const *argv)
{
    bool json = false;
    for (unsigned i = 1; argv[0] != NULL && argv[i] != NULL && strcmp(argv[i], "--") != 0; i++) {
        if (g_str_has_prefix(argv[i], "--output="))
            json = strcmp(argv[i], "--output=json") == 0;
        else if (strcmp(argv[i], "--output") == 0 && argv[i + 1] != NULL)
            json = strcmp(argv[++i], "json") == 0;
    }
    return json;
}

char *
vs_options_overview(const VsCommand *commands)
{
    GString *text = g_string_new("Usage:\n  virtsnap COMMAND [OPTION...] [ARGUMENT...]\n\n"
                                 "Crash-consistent snapshots of QEMU virtual machines.\n\n"
                                 "Commands:\n");
    g_string_append_printf(text, "  %-14s %s\n", "help [COMMAND]",
                           "Show a command's help, or this");
    for (; commands->name != NULL; commands++)
        g_string_append_printf(text, "  %-14s %s\n", commands->name, commands->summary);
    g_string_append(
        text,
        "\nOptions of every command:\n"
        "  --repo DIR           The repository\n"
        "  --connect URI        libvirt's URI (default: $LIBVIRT_DEFAULT_URI, else libvirt's own)\n"
        "  --output table|json  How to answer\n"
        "  --quiet              No progress, no warnings\n"
        "  -h, --help           Show a command's help\n"
        "  -V, --version        Show the version\n\n"
        "INSTANCE is a libvirt domain (name or UUID), qmp:SOCKET (a running QEMU's monitor) or\n"
        "file:PATH (an image that no instance has now). ID is a snapshot's (s-...), GROUP that\n"
        "of a consistent group (ssg-...); `virtsnap list` shows both.\n");
    return g_string_free(text, FALSE);
}
