// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include <memory>

#include "qmp/client.h"
#include "qmp/schema.h"

namespace
{

VsQmpSchema *
Parse(const char *text, GError **error)
{
    json_object *reply = json_tokener_parse(text);
    EXPECT_NE(reply, nullptr) << text;
    VsQmpSchema *schema = vs_qmp_schema_parse(reply, error);
    json_object_put(reply);
    return schema;
}

// Shaped like QEMU's: types are numbered, a union's variants hang on its tag, an alternate has an
// object branch.
const char *const kSchema = R"([
 {"meta-type":"command","name":"blockdev-add","arg-type":"1","ret-type":"0"},
 {"meta-type":"command","name":"stop","arg-type":"0","ret-type":"0"},
 {"meta-type":"command","name":"odd","ret-type":"0"},
 {"meta-type":"event","name":"STOP","arg-type":"0"},
 {"meta-type":"object","name":"0","members":[]},
 {"meta-type":"object","name":"1","tag":"driver",
  "members":[{"name":"driver","type":"2"},{"name":"node-name","type":"str"}],
  "variants":[{"case":"file","type":"3"},{"case":"cbw","type":"4"},{"case":"lost","type":"99"}]},
 {"meta-type":"enum","name":"2","values":["file","cbw"]},
 {"meta-type":"object","name":"3","members":[{"name":"filename","type":"str"}]},
 {"meta-type":"object","name":"4","members":[{"name":"file","type":"5"},{"name":"list","type":"[3]"}]},
 {"meta-type":"alternate","name":"5","members":[{"type":"str"},{"type":"1"}]},
 {"meta-type":"array","name":"[3]","element-type":"3"},
 {"meta-type":"builtin","name":"str","json-type":"string"},
 {"meta-type":"array","name":"loop","element-type":"loop"},
 {"meta-type":"command","name":"looping","arg-type":"loop","ret-type":"0"},
 {"meta-type":"command","name":"broken","arg-type":"6","ret-type":"0"},
 {"meta-type":"object","name":"6","members":{"name":"x"}}])";

TEST(QmpSchema, CommandsAreKnownByNameAndOnlyCommands)
{
    g_autoptr(VsQmpSchema) schema = Parse(kSchema, nullptr);
    ASSERT_NE(schema, nullptr);
    EXPECT_TRUE(vs_qmp_schema_has_command(schema, "blockdev-add"));
    EXPECT_FALSE(vs_qmp_schema_has_command(schema, "blockdev-del"));
    EXPECT_FALSE(vs_qmp_schema_has_command(schema, "STOP"));
    EXPECT_FALSE(vs_qmp_schema_has_command(schema, "str"));
}

TEST(QmpSchema, ArgumentsAreFoundThroughMembersVariantsAlternatesAndArrays)
{
    g_autoptr(VsQmpSchema) schema = Parse(kSchema, nullptr);
    ASSERT_NE(schema, nullptr);
    for (const char *path :
         {"driver", "node-name", "[file].filename", "[cbw].file", "[cbw].file.node-name",
          "[cbw].file.[file].filename", "[cbw].list.filename", "[cbw]"})
        EXPECT_TRUE(vs_qmp_schema_has_argument(schema, "blockdev-add", path)) << path;
    for (const char *path : {"filename", "[cbw].filename", "[nix].x", "[lost].x", "", ".",
                             "driver.x", "[cbw].file.[file].nix", "[]", "[", "]", "[file]filename"})
        EXPECT_FALSE(vs_qmp_schema_has_argument(schema, "blockdev-add", path)) << path;
}

TEST(QmpSchema, CommandsWithoutSuchArgumentsHaveNone)
{
    g_autoptr(VsQmpSchema) schema = Parse(kSchema, nullptr);
    ASSERT_NE(schema, nullptr);
    for (const char *command : {"stop", "odd", "STOP", "nix", "looping", "broken"})
        EXPECT_FALSE(vs_qmp_schema_has_argument(schema, command, "x")) << command;
}

TEST(QmpSchema, ReplyOfAnotherShapeIsAProtocolError)
{
    for (const char *reply : {"{}", "[1]", "[{}]", "[{\"name\":3}]"}) {
        g_autoptr(GError) error = nullptr;
        EXPECT_EQ(Parse(reply, &error), nullptr);
        EXPECT_TRUE(g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL)) << reply;
    }
}

} // namespace
