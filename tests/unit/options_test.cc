// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/options.h"
#include "plugin/error.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace
{

bool
Never(VsInvocation *, GError **)
{
    return false;
}

const VsCommand COMMANDS[] = {
    {"repo init", "", "", 0, 0, Never},   {"repo check", "", "", 0, 0, Never},
    {"list", "", "", 0, 0, Never},        {"show", "ID", "Shows one", 1, 1, Never},
    {"delete", "ID...", "", 1, 3, Never}, {nullptr, nullptr, nullptr, 0, 0, nullptr},
};

// What a command line came to.
struct Parsed {
    std::string command;     // "" where there is none
    std::string information; // --help or --version
    std::string name;
    std::vector<std::string> tags;
    std::vector<std::string> arguments;
    std::string repo;
    std::string help;
    bool json = false;
    bool quiet = false;
    std::string error;
    int exit_status = 0;
};

class Options : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        g_setenv("VIRTSNAP_REPO", "/from/environment", TRUE);
    }

    static Parsed
    Parse(std::vector<std::string> words)
    {
        words.insert(words.begin(), "virtsnap");
        std::vector<char *> argv;
        for (std::string &word : words)
            argv.push_back(word.data());
        argv.push_back(nullptr);

        Parsed parsed;
        const char *information = nullptr;
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsInvocation) invocation =
            vs_options_find_command(argv.data(), COMMANDS, &information, &error);
        parsed.information = information != nullptr ? information : "";
        if (invocation != nullptr && invocation->command != nullptr)
            ParseRest(invocation, &parsed, &error);
        if (error != nullptr) {
            parsed.error = error->message;
            parsed.exit_status = vs_error_exit_status(error);
        }
        return parsed;
    }

  private:
    static void
    ParseRest(VsInvocation *invocation, Parsed *parsed, GError **error)
    {
        g_autofree char *name = nullptr;
        g_auto(GStrv) tags = nullptr;
        const GOptionEntry entries[] = {
            {"name", 0, 0, G_OPTION_ARG_FILENAME, &name, "", "S"},
            {"tag", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &tags, "", "K=V"},
            {nullptr, 0, 0, G_OPTION_ARG_NONE, nullptr, nullptr, nullptr},
        };
        parsed->command = invocation->command->name;
        bool ok = vs_options_parse(invocation, entries, error);
        parsed->help = invocation->text->str;
        EXPECT_EQ(!ok, *error != nullptr || !parsed->help.empty());
        if (!ok)
            return;
        parsed->name = name != nullptr ? name : "";
        for (char **tag = tags; tag != nullptr && *tag != nullptr; tag++)
            parsed->tags.push_back(*tag);
        for (char **argument = invocation->arguments; *argument != nullptr; argument++)
            parsed->arguments.push_back(*argument);
        parsed->repo = invocation->repo;
        parsed->json = invocation->json;
        parsed->quiet = invocation->quiet;
    }
};

using Words = std::vector<std::string>;

TEST_F(Options, GlobalOptionsMayStandOnEitherSideOfTheSubcommand)
{
    for (const Words &words : {Words{"--repo", "/r", "--output", "json", "--quiet", "list"},
                               Words{"list", "--repo", "/r", "--output", "json", "--quiet"},
                               Words{"--repo=/r", "--quiet", "list", "--output=json"},
                               Words{"--quiet", "--output=json", "list", "--repo", "/r"}}) {
        Parsed parsed = Parse(words);
        EXPECT_EQ(parsed.command, "list");
        EXPECT_EQ(parsed.error, "");
        EXPECT_EQ(parsed.repo, "/r");
        EXPECT_TRUE(parsed.json);
        EXPECT_TRUE(parsed.quiet);
    }
}

TEST_F(Options, AGlobalOptionsValueIsNoSubcommand)
{
    EXPECT_EQ(Parse({"--repo", "list", "show", "x"}).command, "show");
    EXPECT_EQ(Parse({"--repo", "list", "show", "x"}).repo, "list");
}

TEST_F(Options, SubcommandsOfTwoWordsAreFound)
{
    EXPECT_EQ(Parse({"repo", "init"}).command, "repo init");
    EXPECT_EQ(Parse({"--quiet", "repo", "--repo", "/r", "check"}).command, "repo check");
    for (const Words &words : {Words{"repo"}, Words{"repo", "nonsense"}, Words{"repo init"},
                               Words{"repo", "--", "init"}})
        EXPECT_EQ(Parse(words).exit_status, 2) << words.back();
}

TEST_F(Options, ValuesAreByteStrings)
{
    EXPECT_EQ(Parse({"list", "--name", "\xff\xfe"}).name, "\xff\xfe");
    EXPECT_EQ(Parse({"list", "--name=\xff"}).name, "\xff");
    EXPECT_EQ(Parse({"list", "--name", "夜"}).name, "夜");
    EXPECT_EQ(Parse({"show", "\xff"}).arguments, (Words{"\xff"}));
}

TEST_F(Options, AValueMayLookLikeAnOption)
{
    EXPECT_EQ(Parse({"list", "--name", "--quiet"}).name, "--quiet");
    EXPECT_FALSE(Parse({"list", "--name", "--quiet"}).quiet);
    EXPECT_EQ(Parse({"list", "--name", "--quiet=yes"}).name, "--quiet=yes");
    EXPECT_EQ(Parse({"list", "--name="}).name, "");
}

TEST_F(Options, RepeatedListsAddUpAndARepeatedSingleValueIsRefused)
{
    EXPECT_EQ(Parse({"list", "--tag", "a=1", "--tag=b=2"}).tags, (Words{"a=1", "b=2"}));
    for (const Words &words :
         {Words{"list", "--name", "a", "--name", "b"}, Words{"list", "--name=a", "--name=a"},
          Words{"--repo", "/a", "list", "--repo=/b"},
          Words{"--output", "json", "list", "--output", "json"}}) {
        Parsed parsed = Parse(words);
        EXPECT_EQ(parsed.exit_status, 2);
        EXPECT_NE(parsed.error.find("given twice"), std::string::npos) << parsed.error;
    }
    EXPECT_EQ(Parse({"list", "--name", "--name"}).name, "--name");
    EXPECT_TRUE(Parse({"list", "--quiet", "--quiet"}).quiet);
}

TEST_F(Options, HelpIsACommandToo)
{
    EXPECT_EQ(Parse({"help"}).information, "--help");
    EXPECT_EQ(Parse({"help", "repo"}).information, "--help");
    EXPECT_EQ(Parse({"help", "help"}).information, "--help");
    EXPECT_EQ(Parse({"help", "repo", "init"}).command, "repo init");
    EXPECT_NE(Parse({"help", "show"}).help.find("Shows one"), std::string::npos);
    EXPECT_NE(Parse({"--quiet", "help", "show"}).help.find("Shows one"), std::string::npos);
    EXPECT_EQ(Parse({"help", "nonsense"}).exit_status, 2);
    EXPECT_EQ(Parse({"-V"}).information, "--version");
}

TEST_F(Options, ErrorsTellWhatWouldBeRight)
{
    for (const Words &words : {Words{"repo"}, Words{"repo", "nonsense"}}) {
        std::string error = Parse(words).error;
        EXPECT_NE(error.find("init, check"), std::string::npos) << error;
    }
    for (const Words &words : {Words{"show", "--nonsense"}, Words{"show", "x", "--name"}}) {
        std::string error = Parse(words).error;
        EXPECT_NE(error.find("see `virtsnap show --help`"), std::string::npos) << error;
    }
}

TEST_F(Options, EverythingAfterTwoDashesIsAnArgument)
{
    EXPECT_EQ(Parse({"delete", "--quiet", "--", "--name", "x"}).arguments, (Words{"--name", "x"}));
    EXPECT_EQ(Parse({"show", "--", "--help"}).arguments, (Words{"--help"}));
}

TEST_F(Options, WrongUsageIsExitStatusTwo)
{
    for (const Words &words : {Words{},
                               Words{"--quiet"},
                               Words{"nonsense"},
                               Words{""},
                               Words{"--", "list"},
                               Words{"list", "--nonsense"},
                               Words{"list", "--nonsense=1"},
                               Words{"--nonsense", "list"},
                               Words{"list", "extra"},
                               Words{"show"},
                               Words{"show", "a", "b"},
                               Words{"delete"},
                               Words{"delete", "1", "2", "3", "4"},
                               Words{"list", "--name"},
                               Words{"list", "--repo"},
                               Words{"list", "--output"},
                               Words{"list", "--output", "xml"},
                               Words{"list", "--output="},
                               Words{"list", "--repo="},
                               Words{"list", "--quiet=yes"},
                               Words{"list", "--quie"},
                               Words{"list", "-x"},
                               Words{std::string(10000, 'x')}}) {
        Parsed parsed = Parse(words);
        EXPECT_EQ(parsed.exit_status, 2) << (words.empty() ? "(nothing)" : words.back());
        EXPECT_NE(parsed.error, "");
    }
}

TEST_F(Options, HelpComesBeforeAllOtherComplaints)
{
    EXPECT_NE(Parse({"show", "--help"}).help.find("Shows one"), std::string::npos);
    EXPECT_NE(Parse({"--help", "show"}).help.find("show ID"), std::string::npos);
    EXPECT_NE(Parse({"show", "-h", "a", "b", "c"}).help.find("--name"), std::string::npos);
    EXPECT_EQ(Parse({"--help"}).information, "--help");
    EXPECT_EQ(Parse({"repo", "--help"}).information, "--help");
    EXPECT_EQ(Parse({"--version"}).information, "--version");
}

TEST_F(Options, OverviewNamesEveryCommand)
{
    g_autofree char *overview = vs_options_overview(COMMANDS);
    for (const VsCommand *command = COMMANDS; command->name != nullptr; command++)
        EXPECT_NE(strstr(overview, command->name), nullptr);
}

TEST_F(Options, RepositoryComesFromTheEnvironmentWhereItIsNotGiven)
{
    EXPECT_EQ(Parse({"list"}).repo, "/from/environment");
    EXPECT_EQ(Parse({"list", "--repo", "/r"}).repo, "/r");
    g_setenv("VIRTSNAP_REPO", "", TRUE);
    EXPECT_NE(Parse({"list"}).repo, "");
}

TEST_F(Options, JsonIsRecognisedHoweverWrongTheRestIs)
{
    auto want = [](Words words) {
        words.insert(words.begin(), "virtsnap");
        std::vector<char *> argv;
        for (std::string &word : words)
            argv.push_back(word.data());
        argv.push_back(nullptr);
        return vs_options_want_json(argv.data());
    };
    EXPECT_TRUE(want({"nonsense", "--bad", "--output", "json"}));
    EXPECT_TRUE(want({"--output=json"}));
    EXPECT_TRUE(want({"--output", "table", "--output", "json"}));
    EXPECT_FALSE(want({"--output", "json", "--output", "table"}));
    EXPECT_FALSE(want({"list", "--", "--output", "json"}));
    EXPECT_FALSE(want({"list", "--output"}));
    EXPECT_FALSE(want({}));
}

} // namespace
