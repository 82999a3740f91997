# Delegates to CMakeLists.txt, the one list of native sources: for `node-gyp rebuild` and prebuildify in a clone.
# Not part of the published package.
{
  'targets': [
    {
      'target_name': 'esft_cmake',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake',
          'inputs': [
            'CMakeLists.txt',
            'scripts/cmake-build.ts',
            "<!@(node -p \"require('node:fs').readdirSync('csrc',{recursive:true,withFileTypes:true}).filter(f=>f.isFile()).map(f=>(f.parentPath??f.path)+'/'+f.name).join(' ')\")"
          ],
          'outputs': ['<(PRODUCT_DIR)/esft.node'],
          'action': ['node', '--import', 'tsx', 'scripts/cmake-build.ts', '<(CONFIGURATION_NAME)']
        }
      ]
    }
  ]
}
